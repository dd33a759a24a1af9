"""Batches of (inputs, targets), and moving them to a model's device and dtype."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from nbquant.nested import map_tensors


@dataclass(frozen=True, eq=False)
class Batches:
    """A sized sequence of (inputs, targets), iterable any number of times; the batches are views.

    Attributes:
        inputs: All inputs, the samples along the first axis.
        targets: All targets, one per sample.
        batch_size: Samples in a batch; the last one may have fewer.

    Raises:
        ValueError: Inputs and targets of different number, none at all, or a batch size below one.
    """

    inputs: Shaped[Tensor, "n ..."]
    targets: Shaped[Tensor, "n ..."]
    batch_size: int = 100

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.targets) or len(self.inputs) == 0:
            raise ValueError(
                f"as many targets as inputs, and at least one, are required, but got {len(self.inputs)} inputs and "
                f"{len(self.targets)} targets: pass the inputs and targets of the same samples."
            )
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, but is {self.batch_size}: pass for example 100.")

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.inputs)

    def __len__(self) -> int:
        """Number of batches."""
        return -(-self.samples // self.batch_size)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Batch number ``index``; negative ones count from the end."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"index must be below the number of batches, {len(self)}, but is {index}.")
        start = index % len(self) * self.batch_size
        return self.inputs[start : start + self.batch_size], self.targets[start : start + self.batch_size]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.inputs.shape[1:]))
        return f"Batches({self.samples:,} samples of {shape}, batch_size={self.batch_size}, {self.inputs.device})"

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Batches":
        """Move the samples to another device; ``dtype`` also converts floating-point inputs."""
        inputs = self.inputs.to(device=device)
        if inputs.is_floating_point():
            inputs = inputs.to(dtype=dtype)
        return Batches(inputs, self.targets.to(device=device), self.batch_size)

    def take(self, n_samples: int) -> "Batches":
        """Take the first ``n_samples`` samples, in batches of the same size.

        Raises:
            ValueError: Fewer than one sample, or more than there are.
        """
        if not 1 <= n_samples <= self.samples:
            raise ValueError(
                f"n_samples must be from 1 to {self.samples} (all there are), but is {n_samples}: ask for fewer."
            )
        return Batches(self.inputs[:n_samples], self.targets[:n_samples], self.batch_size)


def to_device(batch: Any, device: torch.device | None, dtype: torch.dtype | None = None) -> Any:
    """Move all tensors of a nested batch to ``device``, floating ones to ``dtype``; None leaves the dtype."""
    if device is None and dtype is None:
        return batch
    return map_tensors(lambda tensor: tensor.to(device, dtype if tensor.is_floating_point() else None), batch)


def dtype_of(model: nn.Module) -> torch.dtype | None:
    """Find the dtype of all floating parameters; None if there is none or several."""
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return dtypes.pop() if len(dtypes) == 1 else None


def device_of(model: nn.Module) -> torch.device | None:
    """Find the device of the model's first parameter or buffer; None if it has neither."""
    first = next(model.parameters(), next(model.buffers(), None))
    return None if first is None else first.device
