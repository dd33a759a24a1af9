"""Take the first samples of any batches."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nbquant.models.evaluate import parts_of


def first_samples(batches: Iterable[Any], samples: int) -> Iterable[Any]:
    """Take whole batches until there are enough samples; of plain tensors, the last batch is cut to size.

    Args:
        batches: Pairs (inputs, target), nested as for :func:`nbquant.sensitivity`; those with a method ``take`` are
            asked for it.
        samples: How many; 0, or more than there are, is all.

    Returns:
        Batches that can be gone through as often as those given.

    Raises:
        ValueError: A negative number.
    """
    if samples < 0:
        raise ValueError(f"samples must be at least 0, which is all, but is {samples}")
    if samples == 0:
        return batches
    take, count = getattr(batches, "take", None), getattr(batches, "samples", None)
    if callable(take) and isinstance(count, int):
        return take(min(samples, count))
    return _First(batches, samples)


@dataclass(frozen=True, eq=False)
class _First:
    batches: Iterable[Any]
    samples: int

    def __iter__(self) -> Iterator[Any]:
        left = self.samples
        for number, batch in enumerate(self.batches):
            count = parts_of(batch, number, None)[2]
            yield batch if count <= left else _cut(batch, left, count)
            left -= count
            if left <= 0:
                return


def _cut(batch: Any, kept: int, count: int) -> Any:
    """The first of its samples; a nest of tensors stays whole, as only the model knows what each of them counts."""
    inputs, target = batch
    if not (isinstance(inputs, Tensor) and isinstance(target, Tensor) and len(inputs) == len(target) == count):
        return batch
    return inputs[:kept], target[:kept]
