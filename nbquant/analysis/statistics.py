"""Statistics of a selection for live computation: a histogram per tensor, and the cost of its positions."""

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any

import torch
from torch import Tensor

from nbquant.analysis.cache import cached
from nbquant.analysis.recent import Recent
from nbquant.analysis.sums import HistogramSums
from nbquant.coding import codes
from nbquant.coding.ledger import Ledger
from nbquant.coding.positions import GapHistogram
from nbquant.kernels import dispatch
from nbquant.kernels.dispatch import PIECE
from nbquant.progress import Progress, track
from nbquant.quantization.clustering import WHOLE, gaps_of, histogram_of
from nbquant.quantization.histogram import NEGLIGIBLE, Cells, Histogram
from nbquant.quantization.rate import is_mostly_zero, position_ledger, tensor_gaps, zeros_ledger
from nbquant.quantization.selection import Selection
from nbquant.quantization.tensor import SelectedTensor
from nbquant.quantization.validate import all_zero
from nbquant.quantization.workers import Workers
from nbquant.required import SELECTION, require
from nbquant.tensorfile import FileSlice

TENSORS_KEPT = 512  # tensors whose statistics stay in memory, a megabyte or two each
SELECTIONS_KEPT = 4  # selections whose curves stay in memory


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """Statistics of one tensor, computed in one pass over it.

    Attributes:
        name: Parameter name.
        layer: Name of the module that owns the parameter.
        dtype: Its floating-point type.
        histogram: Sums over the (h, w) grid.
        gaps: Gaps between the non-zero weights.
    """

    name: str
    layer: str
    dtype: torch.dtype
    histogram: Histogram
    gaps: GapHistogram

    @staticmethod
    def of(tensor: SelectedTensor, progress: Progress = False) -> "TensorStatistics":
        """Compute the statistics in one pass, or reuse them if the tensor has not changed.

        Raises:
            ValueError: Weights or sensitivities that are not finite, or negative sensitivities.
        """

        def compute() -> tuple[Histogram, GapHistogram]:
            histogram = Histogram.of(tensor.weight, tensor.sensitivity, tensor.name, progress)
            return histogram, tensor_gaps(tensor.weight)

        key = _content(tensor)
        found = _tensors.get(key) or _tensors.keep(key, cached(tensor, compute))
        return TensorStatistics(tensor.name, tensor.layer, tensor.weight.dtype, *found)


def tensor_statistics(tensors: Sequence[SelectedTensor], progress: Progress = False) -> tuple[TensorStatistics, ...]:
    """Compute the statistics of several tensors: small tensors in parallel, large ones in parallel pieces.

    Raises:
        ValueError: As :meth:`TensorStatistics.of`.
        Cancelled: By ``progress``; finished tensors are kept.
    """
    pieces = [-(-t.weight.numel() // PIECE) or 1 for t in tensors]
    ticks = track(range(sum(pieces)), "histograms", progress)
    next(ticks, None)
    small = {t.name: dispatch.submit(TensorStatistics.of, t) for t, n in zip(tensors, pieces, strict=True) if n == 1}
    found = []
    try:
        for tensor, count in zip(tensors, pieces, strict=True):
            report = _counted(ticks, count)
            found.append(small[tensor.name].result() if count == 1 else TensorStatistics.of(tensor, report))
            report(count, count)  # tensors that were reused
    finally:
        for future in small.values():
            future.cancel()
    return tuple(found)


def _over_ranks(selection: Selection) -> tuple[TensorStatistics, ...]:
    """Statistics of tensors sharded over ranks; equal on all ranks."""
    return tuple(
        TensorStatistics(t.name, t.layer, t.weight.dtype, histogram_of(t, selection), gaps_of(t, selection))
        for t in selection
    )


def _by_workers(selection: Selection, workers: Workers, progress: Progress) -> tuple[TensorStatistics, ...]:
    """Statistics of tensors on disk, one task per file; known ones are reused here."""
    content = {t.name: _content(t) for t in selection}
    known = {name: _tensors.get(key) for name, key in content.items()}
    left = [t for t in selection if known[t.name] is None]
    ticks = track(range(len(left)), "histograms", progress)
    next(ticks, None)
    for part in workers.map(tensor_statistics, left):
        for found in part:
            known[found.name] = _tensors.keep(content[found.name], (found.histogram, found.gaps))
            next(ticks, None)
    every = ((t, known[t.name]) for t in selection)
    return tuple(TensorStatistics(t.name, t.layer, t.weight.dtype, *sums) for t, sums in every if sums is not None)


def _counted(ticks: Iterator[int], most: int) -> Callable[[int, int | None], None]:
    """Report progress of tasks with so many ticks each, each task once."""
    taken = 0

    def report(done: int, total: int | None) -> None:
        nonlocal taken
        while taken < min(done, most):
            taken += 1
            next(ticks, None)

    return report


_tensors: Recent[tuple[Histogram, GapHistogram]] = Recent(TENSORS_KEPT)


def _content(tensor: SelectedTensor) -> Hashable:
    """Key that changes with the tensor's values."""
    return (
        _values(tensor.weight, tensor.weight_source),
        None if tensor.sensitivity is None else _values(tensor.sensitivity, tensor.sensitivity_source),
    )


def _values(values: Tensor, source: FileSlice | None) -> Hashable:
    """For a file, its version, so that it is not read; for memory, a sum over its bits, as nothing else shows a change.

    Writing to a tensor's ``.data``, as pruning often does, leaves its version counter unchanged.
    """
    known = (values.dtype, values.shape, values._version)
    if source is not None and source.is_current():
        return (*known, source)
    content = values.detach().contiguous().reshape(-1).view(torch.uint8)
    whole = len(content) // 8 * 8
    sums = int(content[:whole].view(torch.int64).sum()), int(content[whole:].sum())
    return (*known, values.device, values.data_ptr(), sums)


@dataclass(frozen=True, eq=False)
class Statistics:
    """Statistics of a selection; a part of a selection shares those of its tensors.

    Attributes:
        tensors: One entry per tensor, in the model's order.
        offset: Damping added to every h [loss/weight²]: ε·mean(h), see :meth:`nbquant.sensitivity.Sensitivity.damped`.
        curves: Curves computed so far by :func:`nbquant.analysis.tabulated.curve`, by method.
    """

    tensors: tuple[TensorStatistics, ...]
    offset: float = 0.0
    curves: dict[Any, Any] = field(default_factory=dict)
    _sums: tuple[HistogramSums, tuple[TensorStatistics, ...]] | None = None

    @staticmethod
    def of(selection: Selection, progress: Progress = False) -> "Statistics":
        """Compute the statistics in one pass over a selection; tensors that have not changed are reused.

        Raises:
            ValueError: Weights or sensitivities that are not finite, or negative sensitivities (names the tensor), or
                sensitivities that are all zero.
            Cancelled: By ``progress``; finished tensors are kept.
        """
        require("selection", selection, Selection, SELECTION)
        if selection.shards is not None:
            tensors = _over_ranks(selection)
        elif selection.workers is not None:
            tensors = _by_workers(selection, selection.workers, progress)
        else:
            tensors = tensor_statistics(selection.tensors, progress)
        if sum(t.histogram.mass for t in tensors) < NEGLIGIBLE:
            raise all_zero(len(selection))
        # The same tensors have the same histogram objects: identity is their key.
        key = tuple((t.name, t.layer, id(t.histogram)) for t in tensors)
        return _selections.get(key) or _selections.keep(key, Statistics(tensors))

    def part(self, layers: Collection[str]) -> "Statistics":
        """Restrict to some of the layers."""
        return Statistics(tuple(t for t in self.tensors if t.layer in layers), self.offset, _sums=self.sums)

    def damped(self, offset: float) -> "Statistics":
        """Add ``offset`` [loss/weight²] to every h."""
        return Statistics(self.tensors, offset, _sums=self.sums)

    @cached_property
    def sums(self) -> tuple[HistogramSums, tuple[TensorStatistics, ...]]:
        """Sums of histograms, and the tensors' indices in them: shared by all parts."""
        return self._sums or (HistogramSums(tuple(t.histogram for t in self.tensors)), self.tensors)

    @cached_property
    def weights(self) -> int:
        """Number of weights N, zeros included."""
        return sum(len(t.histogram) for t in self.tensors)

    @cached_property
    def zeros(self) -> int:
        """Number of weights that are exactly zero."""
        return sum(t.histogram.zeros for t in self.tensors)

    def zeros_of(self, group: str) -> int:
        """Number of weights that are exactly zero, in one layer or in all."""
        return sum(t.histogram.zeros for t in self.tensors if group in (t.layer, WHOLE))

    @property
    def pruned(self) -> bool:
        """Whether zeros are left out and positions stored; see :func:`nbquant.quantization.rate.is_mostly_zero`."""
        return is_mostly_zero(self.zeros, self.weights)

    @cached_property
    def source_bits(self) -> int:
        """Bits of the weights before quantization."""
        return sum(len(t.histogram) * torch.finfo(t.dtype).bits for t in self.tensors)

    @cached_property
    def bits(self) -> int:
        """Bits of a reconstruction value: those of the common type of all tensors."""
        return torch.finfo(reduce(torch.promote_types, (t.dtype for t in self.tensors))).bits

    @cached_property
    def position_ledger(self) -> Ledger:
        """Bits of the positions of a pruned selection; empty if it is not pruned."""
        return position_ledger([t.gaps for t in self.tensors]) if self.pruned else Ledger()

    def zeros_ledger(self, coding: str) -> Ledger:
        """Bits of the zeros of a pruned selection under a code: positions, or zeros as a symbol of the alphabet.

        Empty if it is not pruned. As a symbol, zeros cost their order-0 entropy, tensor by tensor.
        """
        if not codes.named(coding).adaptive or not self.pruned:
            return self.position_ledger
        return zeros_ledger([t.histogram.zeros for t in self.tensors], [len(t.histogram) for t in self.tensors])

    @cached_property
    def histograms(self) -> dict[str, Histogram]:
        """Histogram of each layer, without the zeros of a pruned selection."""
        return {layer: self._histogram(layer) for layer in dict.fromkeys(t.layer for t in self.tensors)}

    @cached_property
    def histogram(self) -> Histogram:
        """Histogram of the whole selection, without the zeros of a pruned one."""
        return self._histogram(WHOLE)

    def _histogram(self, group: str) -> Histogram:
        sums, tensors = self.sums
        place = {id(t): i for i, t in enumerate(tensors)}
        merged = sums.of([place[id(t)] for t in self.tensors if group in (t.layer, WHOLE)])
        kept = merged.without_zeros() if self.pruned else merged
        return kept.damped(self.offset) if self.offset else kept

    def undamped(self, per_layer: bool) -> dict[str, Histogram]:
        """Histogram of each group with a codebook; empty with damping, for which joint bins are too coarse."""
        if self.offset:
            return {}
        return self.histograms if per_layer else {WHOLE: self.histogram}

    def cells(self, weighted: bool, rows: bool, per_layer: bool) -> dict[str, Cells]:
        """Cells for the solvers, for each group with a codebook."""
        key = (weighted, rows, per_layer)
        if key not in self._cells:
            groups = self.histograms if per_layer else {WHOLE: self.histogram}
            self._cells[key] = {g: Cells.of_histogram(h, weighted, rows) for g, h in groups.items() if len(h)}
        return self._cells[key]

    @cached_property
    def _cells(self) -> dict[tuple[bool, bool, bool], dict[str, Cells]]:
        return {}


_selections: Recent[Statistics] = Recent(SELECTIONS_KEPT)
