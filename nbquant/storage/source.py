"""Unquantized tensors of a model or checkpoint, to be stored unchanged next to the quantized ones."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from nbquant.listed import listed
from nbquant.models.checkpoint import Checkpoint
from nbquant.quantization.quantized import Quantized
from nbquant.storage.dtypes import DTYPES, SPELLED, as_bytes
from nbquant.storage.layout import RawEntry
from nbquant.storage.metadata import merged_metadata
from nbquant.tensorfile import FileSlice

PIECE = 1 << 22  # bytes read at a time


@dataclass(frozen=True, eq=False)
class UnquantizedTensors:
    """The unquantized tensors.

    Attributes:
        content: Header entry of each tensor, with its bytes in memory or on disk.
        tied: Further names of quantized and other tensors.
        metadata: Metadata of a checkpoint.
    """

    content: tuple[tuple[RawEntry, Tensor | FileSlice], ...] = ()
    tied: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)

    def pieces(self, index: int) -> Iterator[memoryview | bytes]:
        """Yield the bytes of one tensor, piece by piece.

        Raises:
            ValueError: A file that was changed after opening.
        """
        entry, content = self.content[index]
        if isinstance(content, Tensor):
            flat = content.detach().reshape(-1)
            step = PIECE // content.element_size()
            yield from (as_bytes(flat[i : i + step].cpu()) for i in range(0, len(flat), step))
            return
        with content.path.open("rb") as file:
            file.seek(content.offset)
            left = content.size
            while left:
                piece = file.read(min(left, PIECE))
                if not piece or not content.is_current():
                    raise ValueError(
                        f"{str(content.path)!r} must not change while {entry.name!r} is read from it, but was "
                        "changed: select from it again."
                    )
                left -= len(piece)
                yield piece


def unquantized_of(model: nn.Module | str | os.PathLike[str] | None, quantized: Quantized) -> UnquantizedTensors:
    """Collect all tensors that are not quantized.

    Args:
        model: The model or checkpoint path selected from; None if there is nothing else.
        quantized: The quantized selection, which must fit the model.

    Raises:
        ValueError: A model that does not fit, or with values that cannot be stored; no model although there is more to
            store.
        TypeError: A model of another kind.
    """
    if model is None:
        if quantized.unselected_bits:
            raise ValueError(
                f"the model is required for the {quantized.unselected_bits // 8:,} bytes of parameters and buffers "
                "that are not quantized, but None came: pass the module or the path of the checkpoint that was "
                "selected from."
            )
        return UnquantizedTensors()
    if isinstance(model, nn.Module):
        return _of_module(model, quantized)
    if isinstance(model, str | os.PathLike):
        return _of_checkpoint(Checkpoint.open(model), quantized)
    raise TypeError(
        "model must be the torch.nn.Module or the path of the checkpoint that was selected from, but a "
        f"{type(model).__name__} came."
    )


def _of_module(model: nn.Module, quantized: Quantized) -> UnquantizedTensors:
    state = model.state_dict(keep_vars=True)
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"a state of tensors is required, but {name!r} is a {type(value).__name__}: only tensors can be "
                "stored; remove the module's get_extra_state, or save its result separately."
            )
    _require_fitting(quantized, {name: (tuple(v.shape), SPELLED.get(v.dtype)) for name, v in state.items()}, "model")
    first = {id(state[name]): name for name in quantized.tensors}
    content: list[tuple[RawEntry, Tensor | FileSlice]] = []
    tied: dict[str, str] = {}
    for name, tensor in state.items():
        if name in quantized.tensors:
            continue
        if id(tensor) in first:
            tied[name] = first[id(tensor)]
            continue
        first[id(tensor)] = name
        if tensor.dtype not in SPELLED or tensor.is_meta or tensor.is_sparse:
            kind = "without values" if tensor.is_meta else str(tensor.dtype) if not tensor.is_sparse else "sparse"
            raise ValueError(
                f"dense tensors of {', '.join(DTYPES)} can be stored, but {name!r} is {kind}: convert it first."
            )
        content.append((RawEntry(name, tuple(tensor.shape), SPELLED[tensor.dtype]), tensor))
    return UnquantizedTensors(tuple(content), tied)


def _of_checkpoint(checkpoint: Checkpoint, quantized: Quantized) -> UnquantizedTensors:
    stored = {name: checkpoint.stored(name) for name in checkpoint.files}
    _require_fitting(quantized, {name: (s.shape, s.dtype) for name, s in stored.items()}, "checkpoint")
    content: list[tuple[RawEntry, Tensor | FileSlice]] = []
    for name, entry in stored.items():
        if name in quantized.tensors:
            continue
        if entry.dtype not in DTYPES:
            raise ValueError(
                f"tensors of {', '.join(DTYPES)} can be stored, but {name!r} is {entry.dtype}: convert it first."
            )
        content.append((RawEntry(name, entry.shape, entry.dtype), entry.source))
    files = {id(file): file.metadata for file in checkpoint.files.values()}
    return UnquantizedTensors(tuple(content), metadata=merged_metadata(files.values()))


def _require_fitting(
    quantized: Quantized, present: Mapping[str, tuple[tuple[int, ...], str | None]], what: str
) -> None:
    missing = [name for name in quantized.tensors if name not in present]
    if missing:
        raise ValueError(
            f"the {what} must have all {len(quantized.tensors)} quantized tensors, but {listed(missing, 3)} are not "
            f"among its {len(present)}: pass the one that was selected from."
        )
    for name, tensor in quantized.tensors.items():
        required = tuple(tensor.shape), SPELLED[tensor.dtype]
        if present[name] != required:
            raise ValueError(
                f"{name!r} must have shape {required[0]} and type {required[1]} in the {what}, but has "
                f"{present[name][0]} and {present[name][1]}: pass the one that was selected from."
            )
