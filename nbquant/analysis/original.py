"""The original network of a quantized file: which tensor became which."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nbquant.formats.packed_tensor import PackedFile, PackedTensor
from nbquant.models.checkpoint import Checkpoint
from nbquant.tensorfile import FLOATS

_TRIED = 64  # rows by which the order of the original's rows is found


@dataclass(frozen=True)
class Original:
    """The weights of a network before quantization, by name.

    Attributes:
        names: Names of all floating-point tensors.
        tensor: tensor(name) looks up a tensor, which is mapped then if it is in a checkpoint.
    """

    names: tuple[str, ...]
    tensor: Callable[[str], Float[Tensor, "..."]]

    @staticmethod
    def of(source: nn.Module | str | os.PathLike[str]) -> "Original":
        """Open the original network.

        Args:
            source: The network, or the path of its checkpoint.

        Raises:
            TypeError: Anything else.
            ValueError: Not a checkpoint.
        """
        if isinstance(source, nn.Module):
            state = source.state_dict()
            names = tuple(n for n, v in state.items() if v.is_floating_point())
            return Original(names, lambda name: state[name].detach().cpu())
        if not isinstance(source, str | os.PathLike):
            raise TypeError(
                f"original must be a torch.nn.Module or the path of a checkpoint, but a {type(source).__name__} came."
            )
        checkpoint = Checkpoint.open(Path(source))
        names = tuple(n for n in checkpoint.files if checkpoint.stored(n).dtype in FLOATS)
        return Original(names, checkpoint.tensor)

    def names_in(self, opened: PackedFile) -> set[str]:
        """Find which of its tensors are in a file, under the same or another name."""
        return {name for name in map(self.name_of, opened.tensors.values()) if name is not None}

    def name_of(self, packed: PackedTensor) -> str | None:
        """Find the name of a packed tensor in the original: the same, a known other name, or the end of one.

        Core ML writes underscores in place of dots.

        Returns:
            The name; None if there is none, or several.
        """
        for name in (packed.name, *packed.others):
            if name in self.names:
                return name
        possible = (packed.name, *packed.others)
        ends = {n for other in possible for n in self.names if n.endswith(f".{other}")}
        ends = ends or {n for n in self.names if n.replace(".", "_") in possible}
        return ends.pop() if len(ends) == 1 else None


@dataclass(frozen=True)
class Matched:
    """An original tensor in the order of a packed one.

    Attributes:
        matrix: Weights, rows × columns as in the file.
        order: How the file orders them: "same", "transposed" or "regrouped" (rows of the heads).
    """

    matrix: Float[Tensor, "rows columns"]
    order: str


def reordered(tensor: Float[Tensor, "..."], packed: PackedTensor) -> Iterator[Matched]:
    """List the orders in which a file may hold a tensor, as views where possible."""
    if tuple(tensor.shape) == packed.shape or (tensor.numel() == packed.weights and tensor.ndim != 2):
        matrix = tensor.reshape(packed.rows, packed.columns)
        yield Matched(matrix, "same")
        if packed.heads and packed.rows % (2 * packed.heads) == 0:
            halves = matrix.reshape(packed.heads, 2, -1, packed.columns).swapaxes(1, 2)
            yield Matched(halves.reshape(packed.rows, packed.columns), "regrouped")
    if tensor.ndim == 2 and tuple(tensor.shape[::-1]) == packed.shape:
        yield Matched(tensor.T, "transposed")


def matched(tensor: Float[Tensor, "..."], packed: PackedTensor) -> Matched | None:
    """Find the order in which a file holds a tensor: of the possible ones that with the least error.

    Returns:
        The tensor in that order; None if the shapes do not fit.
    """
    options = list(reordered(tensor, packed))
    if len(options) < 2 or packed.values is None:
        return options[0] if options else None
    rows = min(_TRIED, packed.rows)
    decoded = torch.from_numpy(packed.values(0, rows))
    errors = [float((option.matrix[:rows].float() - decoded).square().sum()) for option in options]
    return options[errors.index(min(errors))]


def in_order(tensor: Float[Tensor, "..."], packed: PackedTensor, order: str) -> Float[Tensor, "rows columns"]:
    """Put a tensor of the same shape as the original, such as its sensitivities, into an order.

    Raises:
        ValueError: Another shape.
    """
    for option in reordered(tensor, packed):
        if option.order == order:
            return option.matrix
    raise ValueError(
        f"sensitivities of {packed.name!r} must have the shape of the original weights, but have {tuple(tensor.shape)}."
    )
