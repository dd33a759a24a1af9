"""Detection of the sample dimension of a model's inputs and outputs, by trial runs rather than from lengths."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from nbquant.nested import tensors_in
from nbquant.sensitivity.batch import Axes, Batch, InputAxes, Offsets, Ragged, cut
from nbquant.sensitivity.layers import offsets_of
from nbquant.sensitivity.problem import Problem

_TRIALS = 16  # most ways of splitting that are tried


@dataclass
class Layout:
    """How a model's batches are split into samples.

    Attributes:
        inputs: Sample dimension of each input tensor; None before a batch was tried.
        outputs: Sample dimension of each floating-point output tensor.
        mixing: Largest change of an output by the other samples of its batch, relative to the largest output, if the
            model ran on parts of a batch but gave other outputs; 0 if it did not.
    """

    inputs: InputAxes | None = None
    outputs: Axes | None = None
    mixing: float = 0.0

    def of(self, problem: Problem, batch: Batch) -> Batch:
        """Add axes and number of samples to a batch, if the model's outputs determine them.

        A batch of another structure than the tried one is tried again.
        """
        if self.inputs is not None and (size := _size(batch, self.inputs)) is not None:
            return replace(batch, axes=self.inputs, size=size)
        if batch.size < 2 and all(t.shape[0] == 1 for t in tensors_in(batch.inputs) if t.ndim):
            return batch  # a single sample allows no trial and needs no splitting
        self.inputs = self.outputs = None
        self.mixing = 0.0
        self._try(problem, batch)
        if self.inputs is None:
            return batch
        return replace(batch, axes=self.inputs, size=_size(batch, self.inputs) or batch.size)

    def _try(self, problem: Problem, batch: Batch) -> None:
        with torch.no_grad():
            with _bags(problem.model) as bags:
                whole = floating(problem.call(batch))
            for size, axes in islice(_hypotheses(batch, bags), _TRIALS):
                few = min(2, size - 1)
                found: list[Axes] = []
                gap = 0.0
                for start in (0, size - few):
                    part = Batch(cut(batch.inputs, axes, start, start + few), batch.target, few)
                    try:
                        own = floating(problem.call(part))
                    except Exception:  # raised by models for inputs that do not fit each other
                        break
                    if (outputs := _axes_of(whole, own, size, few)) is None:
                        break
                    found.append(outputs)
                    gap = max(gap, _gap(whole, own, outputs, start))
                if len(found) < 2 or found[0] != found[1]:
                    continue
                if gap <= _tolerance(whole):
                    self.inputs, self.outputs, self.mixing = axes, found[0], 0.0
                    return
                self.mixing = self.mixing or gap


def sized(problem: Problem, layout: Layout | None = None) -> Iterator[Batch]:
    """Iterate over a problem's batches, with axes and numbers of samples where the model determines them."""
    layout = Layout() if layout is None else layout
    for batch in problem:
        yield layout.of(problem, batch)


def floating(output: object) -> list[Tensor]:
    """List the floating tensors of an output."""
    return [tensor for tensor in tensors_in(output) if tensor.is_floating_point()]


def _size(batch: Batch, axes: InputAxes) -> int | None:
    """Number of samples along these axes; None if the batch does not have them."""
    tensors = tensors_in(batch.inputs)
    if len(tensors) != len(axes):
        return None
    sizes = set()
    for i, axis in enumerate(axes):
        if isinstance(axis, Ragged):
            if axes[axis.offsets] not in _offsets(tensors, i, axis.offsets):
                return None
        elif isinstance(axis, Offsets):
            sizes.add(len(tensors[i]) - axis.with_end)
        elif axis is not None:
            if axis >= tensors[i].ndim:
                return None
            sizes.add(tensors[i].shape[axis])
    return sizes.pop() if len(sizes) == 1 else None


def _offsets(tensors: list[Tensor], ragged: int, offsets: int) -> tuple[Offsets, ...]:
    """Interpretations of a tensor as offsets of samples in another."""
    long, begin = tensors[ragged], tensors[offsets]
    if ragged == offsets or long.ndim != 1 or begin.ndim != 1 or begin.is_floating_point() or not len(begin):
        return ()
    if begin.dtype == torch.bool or begin[0] != 0 or (begin.diff() < 0).any() or begin[-1] > len(long):
        return ()
    return (Offsets(False), Offsets(True)) if begin[-1] == len(long) else (Offsets(False),)


def _ragged(tensors: list[Tensor], bags: Sequence[tuple[Tensor, Tensor]]) -> Iterator[tuple[int, InputAxes]]:
    """Ways to split the inputs if one of them holds the sample lengths of others."""
    numbers = {id(t): i for i, t in enumerate(tensors)}
    pairs = {(numbers.get(id(ids)), numbers.get(id(begin))) for ids, begin in bags}
    if len(pairs) > 1:
        return
    ((ragged, offsets),) = pairs
    if ragged is None or offsets is None:
        return
    for kind in _offsets(tensors, ragged, offsets):
        size = len(tensors[offsets]) - kind.with_end
        axes = (
            kind
            if i == offsets
            else Ragged(offsets)
            if t.shape == tensors[ragged].shape
            else (0 if t.ndim and len(t) == size else None)
            for i, t in enumerate(tensors)
        )
        if size > 1:
            yield size, tuple(axes)


@contextmanager
def _bags(model: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Ids and offsets of concatenated bags."""
    found: list[tuple[Tensor, Tensor]] = []

    def note(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids, offsets = (*args, *kwargs.values())[0], offsets_of((*args, *kwargs.values())[1:])
        if isinstance(ids, Tensor) and ids.ndim == 1 and offsets is not None:
            found.append((ids, offsets))

    handles = [
        m.register_forward_pre_hook(note, with_kwargs=True) for m in model.modules() if isinstance(m, nn.EmbeddingBag)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _hypotheses(batch: Batch, bags: Sequence[tuple[Tensor, Tensor]]) -> Iterator[tuple[int, InputAxes]]:
    """Ways to split the inputs, likely ones first: all first dimensions of one length, fewer of them, second ones.

    For a network with bags only those shown by its calls: torch does not check that offsets are within the ids.
    """
    tensors = tensors_in(batch.inputs)
    if bags:
        yield from _ragged(tensors, bags)
        return
    for dim in (0, 1):
        lengths = [t.shape[dim] if t.ndim > dim else 0 for t in tensors]
        for size in dict.fromkeys([batch.size, *lengths] if dim == 0 else [n for n in lengths if n == batch.size]):
            if size < 2 or size not in lengths:
                continue
            axes = tuple(dim if n == size else None for n in lengths)
            yield size, axes
            used = [i for i, axis in enumerate(axes) if axis is not None]
            if len(used) > 1:
                for out in reversed(used):  # masks and tables mostly come last
                    yield size, tuple(None if i == out else axis for i, axis in enumerate(axes))
                if len(used) > 2:
                    yield size, tuple(axis if i == used[0] else None for i, axis in enumerate(axes))


def _axes_of(whole: list[Tensor], part: list[Tensor], size: int, few: int) -> Axes | None:
    """The dimension of each output that became shorter with the batch; None if they differ, or none did."""
    if len(whole) != len(part):
        return None
    axes: list[int | None] = []
    for a, b in zip(whole, part, strict=True):
        if a.ndim != b.ndim:
            return None
        changed = [d for d in range(a.ndim) if a.shape[d] != b.shape[d]]
        if len(changed) > 1 or (changed and (a.shape[changed[0]], b.shape[changed[0]]) != (size, few)):
            return None
        axes.append(changed[0] if changed else None)
    return tuple(axes) if any(axis is not None for axis in axes) else None


def _gap(whole: list[Tensor], part: list[Tensor], axes: Axes, start: int) -> float:
    """Largest difference between outputs of the same samples, relative to the largest of them."""
    gap = 0.0
    for a, b, axis in zip(whole, part, axes, strict=True):
        if axis is None or not a.numel():
            continue
        scale = float(a.double().abs().nan_to_num(0, 0, 0).amax()) or 1.0
        own = a.narrow(axis, start, b.shape[axis]).double()
        off = torch.where(own.isfinite(), (own - b.double()).abs(), 0.0)
        gap = max(gap, float(off.nan_to_num(math.inf, math.inf, math.inf).amax()) / scale)
    return gap


def _tolerance(outputs: list[Tensor]) -> float:
    narrow = any(t.dtype.itemsize < 4 for t in outputs)
    return 0.05 if narrow else 1e-3
