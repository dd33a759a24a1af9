"""All that live computation needs to know of a selection: a histogram a tensor, and what its positions cost."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property, reduce

import torch

from nbquant.coding.ledger import Ledger
from nbquant.coding.positions import GapHistogram
from nbquant.progress import Progress, track
from nbquant.quantization.fitting import WHOLE
from nbquant.quantization.histogram import Cells, Histogram
from nbquant.quantization.rate import is_mostly_zero, position_ledger, tensor_gaps
from nbquant.quantization.selection import SelectedTensor, Selection


@dataclass(frozen=True)
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
    def of(tensor: SelectedTensor) -> "TensorStatistics":
        """One pass over a tensor."""
        return TensorStatistics(
            name=tensor.name,
            layer=tensor.layer,
            dtype=tensor.weight.dtype,
            histogram=Histogram.of(tensor.weight, tensor.sensitivity),
            gaps=tensor_gaps(tensor.weight),
        )


@dataclass(frozen=True)
class Statistics:
    """Statistics of a selection; those of a part of it are made of the same tensors.

    Attributes:
        tensors: One entry a tensor, in the model's order.
    """

    tensors: tuple[TensorStatistics, ...]

    @staticmethod
    def of(selection: Selection, progress: Progress = False) -> "Statistics":
        """One pass over a selection."""
        tensors = track(selection, "histograms", progress, len(selection.tensors))
        return Statistics(tuple(TensorStatistics.of(t) for t in tensors))

    def part(self, layers: Collection[str]) -> "Statistics":
        """Those of some of the layers."""
        return Statistics(tuple(t for t in self.tensors if t.layer in layers))

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

    @property
    def source_bits(self) -> int:
        """Bits of the weights as they are stored now."""
        return sum(len(t.histogram) * torch.finfo(t.dtype).bits for t in self.tensors)

    @property
    def bits(self) -> int:
        """Bits of a reconstruction value: those of the type that holds all the tensors' types."""
        return torch.finfo(reduce(torch.promote_types, (t.dtype for t in self.tensors))).bits

    @cached_property
    def position_ledger(self) -> Ledger:
        """What the positions of a pruned selection cost; nothing if it is not pruned."""
        return position_ledger([t.gaps for t in self.tensors]) if self.pruned else Ledger()

    @cached_property
    def histograms(self) -> dict[str, Histogram]:
        """Histogram of each layer, without the zeros of a pruned selection."""
        layers = dict.fromkeys(t.layer for t in self.tensors)
        merged = {layer: Histogram.merge(t.histogram for t in self.tensors if t.layer == layer) for layer in layers}
        return {layer: h.without_zeros() for layer, h in merged.items()} if self.pruned else merged

    @cached_property
    def histogram(self) -> Histogram:
        """Histogram of the whole, without the zeros of a pruned selection."""
        return Histogram.merge(self.histograms.values())

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
