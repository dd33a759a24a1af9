"""The first samples of any batches."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from nbquant.models.evaluate import parts_of
from nbquant.nested import map_tensors


def first_samples(batches: Iterable[Any], samples: int) -> Iterable[Any]:
    """Whole batches until there are enough samples, the last of them cut.

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
    """The first of its samples; what has not one a row, as a mask that all share, stays."""
    return map_tensors(lambda tensor: tensor[:kept] if tensor.ndim and len(tensor) == count else tensor, batch)
