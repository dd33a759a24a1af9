"""All that live computation needs to know of a selection: a histogram a tensor, and what its positions cost."""

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any

import torch
from torch import Tensor

from nbquant.analysis.cache import cached
from nbquant.analysis.recent import Recent
from nbquant.analysis.sums import Sums
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

TENSORS_KEPT = 512  # of which statistics are kept in memory, a megabyte or two each
SELECTIONS_KEPT = 4  # of which curves are kept


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """Statistics of one tensor, found in one pass over it.

    Attributes:
        name: Parameter name.
        layer: Name of the module that owns it.
        dtype: Its floating-point type.
        histogram: Sums over the grid of (h, w).
        gaps: Gaps between the non-zero weights.
    """

    name: str
    layer: str
    dtype: torch.dtype
    histogram: Histogram
    gaps: GapHistogram

    @staticmethod
    def of(tensor: SelectedTensor, progress: Progress = False) -> "TensorStatistics":
        """One pass over a tensor, or none if it was seen before and has not changed.

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
    """Statistics of several tensors: small ones side by side, the pieces of a large one likewise.

    Raises:
        ValueError: As :meth:`TensorStatistics.of`.
        Cancelled: By ``progress``; what was done so far is kept.
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
            report(count, count)  # those of a tensor that was seen before
    finally:
        for future in small.values():
            future.cancel()
    return tuple(found)


def _over_ranks(selection: Selection) -> tuple[TensorStatistics, ...]:
    """Statistics of tensors of which each rank holds a shard; the same on all of them."""
    return tuple(
        TensorStatistics(t.name, t.layer, t.weight.dtype, histogram_of(t, selection), gaps_of(t, selection))
        for t in selection
    )


def _by_workers(selection: Selection, workers: Workers, progress: Progress) -> tuple[TensorStatistics, ...]:
    """Statistics of tensors that are on disk, a task a file; those that were seen before are here."""
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
    """What takes so many ticks as it is told are done, each once."""
    taken = 0

    def report(done: int, total: int | None) -> None:
        nonlocal taken
        while taken < min(done, most):
            taken += 1
            next(ticks, None)

    return report


_tensors: Recent[tuple[Histogram, GapHistogram]] = Recent(TENSORS_KEPT)


def _content(tensor: SelectedTensor) -> Hashable:
    """What changes when the tensor's values do."""
    return (
        _values(tensor.weight, tensor.weight_source),
        None if tensor.sensitivity is None else _values(tensor.sensitivity, tensor.sensitivity_source),
    )


def _values(values: Tensor, source: FileSlice | None) -> Hashable:
    """For a file its version, so that it is not read; for memory a sum over its bits, as nothing else shows a change.

    Writing to a tensor's ``.data``, as pruning often does, leaves its version as it was.
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
    """Statistics of a selection; those of a part of it are made of the same tensors.

    Attributes:
        tensors: One entry a tensor, in the model's order.
        offset: What is added to every h [loss/weight²]: ε·mean(h), see :meth:`nbquant.sensitivity.Sensitivity.damped`.
        curves: What :func:`nbquant.analysis.tabulated.curve` found so far, by method.
    """

    tensors: tuple[TensorStatistics, ...]
    offset: float = 0.0
    curves: dict[Any, Any] = field(default_factory=dict)
    _sums: tuple[Sums, tuple[TensorStatistics, ...]] | None = None

    @staticmethod
    def of(selection: Selection, progress: Progress = False) -> "Statistics":
        """One pass over a selection, or none over those tensors that were seen before and have not changed.

        Raises:
            ValueError: Weights or sensitivities that are not finite, or negative sensitivities (names the tensor), or
                sensitivities that are zero throughout.
            Cancelled: By ``progress``; what was done so far is kept.
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
        # The same tensors have the same histograms as objects: they are known by that.
        key = tuple((t.name, t.layer, id(t.histogram)) for t in tensors)
        return _selections.get(key) or _selections.keep(key, Statistics(tensors))

    def part(self, layers: Collection[str]) -> "Statistics":
        """Those of some of the layers."""
        return Statistics(tuple(t for t in self.tensors if t.layer in layers), self.offset, _sums=self.sums)

    def damped(self, offset: float) -> "Statistics":
        """The same with ``offset`` [loss/weight²] added to every h."""
        return Statistics(self.tensors, offset, _sums=self.sums)

    @cached_property
    def sums(self) -> tuple[Sums, tuple[TensorStatistics, ...]]:
        """Sums of histograms, and of which tensors they are: shared with all parts."""
        return self._sums or (Sums(tuple(t.histogram for t in self.tensors)), self.tensors)

    @cached_property
    def weights(self) -> int:
        """Number of weights N, zeros included."""
        return sum(len(t.histogram) for t in self.tensors)

    @cached_property
    def zeros(self) -> int:
        """Number of weights that are exactly zero."""
        return sum(t.histogram.zeros for t in self.tensors)

    def zeros_of(self, group: str) -> int:
        """The same of one layer, or of the whole."""
        return sum(t.histogram.zeros for t in self.tensors if group in (t.layer, WHOLE))

    @property
    def pruned(self) -> bool:
        """Whether zeros are left out and positions stored; see :func:`nbquant.quantization.rate.is_mostly_zero`."""
        return is_mostly_zero(self.zeros, self.weights)

    @cached_property
    def source_bits(self) -> int:
        """Bits of the weights as they are stored now."""
        return sum(len(t.histogram) * torch.finfo(t.dtype).bits for t in self.tensors)

    @cached_property
    def bits(self) -> int:
        """Bits of a reconstruction value: those of the type that holds all the tensors' types."""
        return torch.finfo(reduce(torch.promote_types, (t.dtype for t in self.tensors))).bits

    @cached_property
    def position_ledger(self) -> Ledger:
        """What the positions of a pruned selection cost; nothing if it is not pruned."""
        return position_ledger([t.gaps for t in self.tensors]) if self.pruned else Ledger()

    def zeros_ledger(self, coding: str) -> Ledger:
        """What the zeros of a pruned selection cost under a code: positions, or where they are in the alphabet, bits.

        Nothing if it is not pruned. In the alphabet it is what order 0 takes, tensor by tensor.
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
        """Histogram of the whole, without the zeros of a pruned selection."""
        return self._histogram(WHOLE)

    def _histogram(self, group: str) -> Histogram:
        sums, tensors = self.sums
        place = {id(t): i for i, t in enumerate(tensors)}
        merged = sums.of([place[id(t)] for t in self.tensors if group in (t.layer, WHOLE)])
        kept = merged.without_zeros() if self.pruned else merged
        return kept.damped(self.offset) if self.offset else kept

    def undamped(self, per_layer: bool) -> dict[str, Histogram]:
        """Histogram of each group that has a codebook; none where h was added to, which they know only roughly."""
        if self.offset:
            return {}
        return self.histograms if per_layer else {WHOLE: self.histogram}

    def cells(self, weighted: bool, rows: bool, per_layer: bool) -> dict[str, Cells]:
        """What the solvers see, for each group that has a codebook."""
        key = (weighted, rows, per_layer)
        if key not in self._cells:
            groups = self.histograms if per_layer else {WHOLE: self.histogram}
            self._cells[key] = {g: Cells.of_histogram(h, weighted, rows) for g, h in groups.items() if len(h)}
        return self._cells[key]

    @cached_property
    def _cells(self) -> dict[tuple[bool, bool, bool], dict[str, Cells]]:
        return {}


_selections: Recent[Statistics] = Recent(SELECTIONS_KEPT)
