"""Uniform quantization with reconstruction values at the centroids of the cells."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nbquant.progress import Progress
from nbquant.quantization.clustering import WHOLE, groups_of, histogram_of_group, quantize_clusters
from nbquant.quantization.clusters import Clusters, centres
from nbquant.quantization.histogram import Cells
from nbquant.quantization.members import SWEEP_BLOCK, ClusterSums, Members, means
from nbquant.quantization.method import Family, Groups, Method, Tabulated
from nbquant.quantization.parameter import STEP, Parameter
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.quantizer import Weights, check_options, check_positive
from nbquant.quantization.rate import is_mostly_zero, lengths_for
from nbquant.quantization.selection import Selection, as_selection
from nbquant.quantization.steps import Steps, check_steps

MOST_CELLS = 1 << 20  # cells from zero to the end of the grid; occupied ones are far fewer
OFFSETS = 16  # offsets compared when the offset is free
HALVINGS = 1  # refinements of their spacing, around the best
STEPS_TABULATED = 64  # points on the curve
FINEST_STEP = 2.0**-7  # in units of the weights' root mean square


@dataclass(frozen=True)
class Uniform:
    """Equally spaced cells; asymptotically the best scalar quantizer with a variable-length code (Gish & Pierce 1968).

    Attributes:
        step: Cell width Δ [weight].
        offset: Offset of the grid, in steps: 0 centres a cell on zero, 0.5 puts a boundary there; None searches the
            cheapest, one for all layers, see :meth:`with_best_offset`.
        weighted: Reconstruction values Σhw/Σh of each cell, or its plain mean.
        coding: "huffman" or "fixed" codeword lengths, or "context" for adaptive arithmetic coding.
        per_layer: One codebook per layer, or one for the whole selection.
        steps: "joint" is one step for all layers; "equal slope" one per layer, step · (mean / h̄)^½ with its mean h̄.
        mean: Mean sensitivity that ``step`` refers to [loss/weight²]; None for the selection's mean.

    Raises:
        ValueError: ``step`` not above 0 or too small for the weights' range, ``offset`` outside [0, 1).

    Source: Choi et al. 2017 (arXiv:1612.01543), section 5.1.
    """

    method: ClassVar[str] = "uniform"
    parameter: ClassVar[Parameter] = STEP
    needs_rows: ClassVar[bool] = False

    step: float
    offset: float | None = 0.0
    weighted: bool = True
    coding: str = "huffman"
    per_layer: bool = False
    steps: Steps = "joint"
    mean: float | None = None

    def __post_init__(self) -> None:
        check_positive("step", self.step, "weight")
        if self.offset is not None:
            check_positive("offset", self.offset, "steps", allow_zero=True)
            if self.offset >= 1:
                raise ValueError(f"offset must be in [0, 1) steps, but got {self.offset}")
        if self.mean is not None:
            check_positive("mean", self.mean, "loss/weight²")
        check_options(self.weighted, self.coding, self.per_layer)
        check_steps(self.steps, self.per_layer)

    def clusters(self, cells: Cells, near: Clusters | None = None) -> Clusters:
        """See :class:`~nbquant.quantization.quantizer.ScalarQuantizer`."""
        if self.offset is None:
            return self.with_best_offset({WHOLE: cells}).clusters(cells)
        step = self._step(*cells.true_prefix[-1, :2])
        _check_reach(step, float(np.abs(cells.position).max()))
        index = np.rint(cells.position / step - self.offset)
        first = np.flatnonzero(np.diff(index, prepend=-np.inf))
        edges = np.append(first, len(index))
        n, s0, s1, _ = np.diff(cells.prefix[edges], axis=0).T
        counts = np.diff(cells.prefix[:, 0])
        codebook = centres(s0, s1, np.add.reduceat(cells.position * counts, first) / n)
        # Across empty cells the boundary is drawn halfway.
        threshold = (0.5 * (index[first[:-1]] + index[first[1:]]) + self.offset) * step
        return Clusters.of_sums(codebook, np.diff(cells.true_prefix[edges], axis=0), threshold)

    def refine(self, members: Members, start: Clusters) -> tuple[Float[np.ndarray, " k"], ClusterSums]:
        """Sweep once: round to the grid and compute the cell means."""
        assert self.offset is not None, "fit() and curves place the grid first"
        step = self.step
        if self.steps != "joint":
            step = self._step(*_population(members.selection, members.skip_zeros))
        low, high = members.reach()
        _check_reach(step, max(abs(low), abs(high)))
        first, last = (int(np.rint(w / step - self.offset)) for w in (low, high))
        sums = members.assign_grid(step, self.offset, first, last - first + 1)
        return means(sums, self.weighted, np.zeros(len(sums))), sums

    def with_best_offset(self, groups: Mapping[str, Cells]) -> "Uniform":
        """Choose the open arguments on the cells of all groups: the offset, and the mean sensitivity.

        At nearly equal distortion a bit is worth 6 dB: the offset minimises payload + ½ log2 D.
        """
        n, mass = np.sum([cells.true_prefix[-1, :2] for cells in groups.values()], axis=0)
        at = replace(self, mean=float(mass / n)) if self.steps != "joint" and self.mean is None else self
        if at.offset is not None:
            return at

        def price(offset: float) -> float:
            found = [replace(at, offset=offset).clusters(cells) for cells in groups.values()]
            loss = sum(clusters.loss for clusters in found)
            payload = sum(float(c.counts @ lengths_for(c.counts, at.coding)) for c in found)
            return payload / n + 0.5 * math.log2(loss) if loss > 0 else -math.inf

        known = {i / OFFSETS: price(i / OFFSETS) for i in range(OFFSETS)}
        for halving in range(1, HALVINGS + 1):
            best = min(known, key=lambda offset: known[offset])
            for side in (-1, 1):
                offset = (best + side / (OFFSETS << halving)) % 1
                known[offset] = price(offset)
        return replace(at, offset=min(known, key=lambda offset: known[offset]))

    def fit(
        self, weight: Weights, sensitivity: Float[Tensor, "..."] | None = None, progress: Progress = False
    ) -> Quantized:
        """Quantize a selection, or a plain tensor with its sensitivity; see :func:`quantize`."""
        return quantize_uniform(self, as_selection(weight, sensitivity), progress)

    def _step(self, n: float, mass: float) -> float:
        """Step of a layer of n weights; a layer with zero sensitivity has the step of the whole."""
        if self.steps == "joint" or not mass > 0:
            return self.step
        mean = mass / n if self.mean is None else self.mean
        return self.step * math.sqrt(mean * n / mass)


def _population(selection: Selection, skip_zeros: bool) -> tuple[int, float]:
    """Number and Σh of the weights that are not left out."""
    n, mass = 0, 0.0
    for t in selection:
        w, h = t.weight.reshape(-1), None if t.sensitivity is None else t.sensitivity.reshape(-1)
        for begin in range(0, len(w), SWEEP_BLOCK):
            part = slice(begin, begin + SWEEP_BLOCK)
            kept = w[part] != 0 if skip_zeros else torch.ones_like(w[part], dtype=torch.bool)
            count = int(kept.sum())
            n += count
            mass += float(count if h is None else (h[part] * kept).sum(dtype=torch.float64))
    return n, mass


def _check_reach(step: float, largest: float) -> None:
    if largest / step > MOST_CELLS:
        raise ValueError(
            f"step must be at least {largest / MOST_CELLS:.3g} for weights up to {largest:.3g}, "
            f"but got {step:.3g}: pass a larger step"
        )


def quantize_uniform(quantizer: Uniform, selection: Selection, progress: Progress = False) -> Quantized:
    """Choose the offset on histograms if it is open, then quantize the weights."""
    if quantizer.offset is not None and (quantizer.steps == "joint" or quantizer.mean is not None):
        return quantize_clusters(quantizer, selection, progress)
    groups = groups_of(selection, quantizer.per_layer).items()
    histograms = {group: histogram_of_group(members, False, progress) for group, members in groups}
    zeros = sum(histogram.zeros for histogram in histograms.values())
    if is_mostly_zero(zeros, len(selection)):
        histograms = {group: histogram.without_zeros() for group, histogram in histograms.items()}
    cells = {g: Cells.of_histogram(h, quantizer.weighted, rows=False) for g, h in histograms.items() if len(h)}
    at = quantizer.with_best_offset(cells) if cells else replace(quantizer, offset=quantizer.offset or 0.0)
    start = {g: at.clusters(c) for g, c in cells.items()}
    return quantize_clusters(at, selection, progress, start=start, zeros=zeros, histograms=histograms)


def place_uniform(quantizer: Uniform, groups: Groups, pruned: bool) -> Uniform:
    """Choose the cheapest offset of a pruned selection, whose zeros are left out.

    A cell centred on zero would merge the smallest weights of both signs.
    """
    return (replace(quantizer, offset=None) if pruned else quantizer).with_best_offset(groups)


def uniform_curve(family: Family, groups: Groups, pruned: bool) -> Tabulated:
    """Compute the clusters at steps from coarse to fine."""
    position = np.concatenate([c.position for c in groups.values()])
    counts = np.concatenate([np.diff(c.prefix[:, 0]) for c in groups.values()])
    scale = np.sqrt(np.average(position**2, weights=counts))
    ends = 2 * np.abs(position).max(), scale * FINEST_STEP
    steps = np.geomspace(*ends, STEPS_TABULATED) if scale > 0 else np.ones(1)
    placed = [place_uniform(Uniform(float(step), **dict(family.options)), groups, pruned) for step in steps]
    return placed, [{g: grid.clusters(c) for g, c in groups.items()} for grid in placed]


def grid_boundaries(quantizer: Uniform, codebook: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k-1"] | None:
    """Compute the boundaries of the grid; None if its offset is open, if layers differ, or if rounding moved values."""
    if quantizer.offset is None or quantizer.steps != "joint":
        return None
    index = np.rint(codebook / quantizer.step - quantizer.offset)
    # Values rounded to few bits may seem to lie in neighbouring cells.
    halfway: Float[np.ndarray, " k-1"] = (0.5 * (index[:-1] + index[1:]) + quantizer.offset) * quantizer.step
    return halfway if (np.diff(index) > 0).all() else None


UNIFORM_METHOD = Method(
    make=Uniform,
    labels=("uniform", "uniform, Hessian-weighted centres"),
    quantize=quantize_uniform,
    curve=uniform_curve,
    place=place_uniform,
    boundaries=grid_boundaries,
)
