"""Rate-distortion curves: every operating point of a method on one selection."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from nbquant.analysis.operating_point import OperatingPoint, operating_point, point_of_clusters
from nbquant.analysis.statistics import Statistics
from nbquant.progress import Progress, track
from nbquant.quantization.clusters import Clusters
from nbquant.quantization.defaults import defaults_of
from nbquant.quantization.ecsq import ECSQ
from nbquant.quantization.histogram import Cells
from nbquant.quantization.kmeans import KMeans
from nbquant.quantization.optimal_ecsq import ecsq_hull
from nbquant.quantization.optimal_kmeans import kmeans_clusters
from nbquant.quantization.quantizer import Coding, Quantizer
from nbquant.quantization.selection import Selection
from nbquant.quantization.steps import Steps, check_steps
from nbquant.quantization.uniform import Uniform

QUANTIZERS: dict[str, type[KMeans] | type[Uniform] | type[ECSQ]] = {q.method: q for q in (KMeans, Uniform, ECSQ)}
MOST_KMEANS_LEVELS = 256
STEPS = 64  # points on the uniform curve
FINEST_STEP = 2.0**-7  # of the root mean square of the weights
LMBDAS = 56  # points on the ECSQ curve
LMBDA_RANGE = (8.0, 1e-8)  # of the distortion of a single level at zero


@dataclass(frozen=True)
class Method:
    """One curve: a method with all its options but the parameter that runs along it.

    Attributes:
        method: Name of the method.
        weighted: Weigh by sensitivity.
        coding: "huffman" or "fixed" codeword lengths, or "context" for adaptive arithmetic coding.
        per_layer: A codebook for each layer, or one for the whole selection.
        pinned_zero: For k-means: whether one of the levels is exactly zero.
        offset: For uniform: where the grid lies [steps]; None is what costs least at each point, as always on the
            curve of a pruned selection, where a cell around zero takes the smallest of both signs.
        steps: For uniform: "joint", or "equal slope" for a step of each layer's own.
    """

    method: str
    weighted: bool = KMeans.weighted
    coding: Coding = KMeans.coding
    per_layer: bool = KMeans.per_layer
    pinned_zero: bool = KMeans.pinned_zero
    offset: float | None = Uniform.offset
    steps: Steps = Uniform.steps

    def __post_init__(self) -> None:
        if self.method not in QUANTIZERS:
            raise ValueError(f"method must be one of {', '.join(QUANTIZERS)}, but got {self.method!r}")
        if self.pinned_zero and self.method != "kmeans":
            raise ValueError(f"pinned_zero is an option of kmeans, but the method is {self.method!r}: leave it out")
        if self.steps != "joint" and self.method != "uniform":
            raise ValueError(f"steps is an option of uniform here, but the method is {self.method!r}: leave it out")
        check_steps(self.steps, self.per_layer)

    @property
    def parameter(self) -> str:
        """Name of the argument that runs along the curve."""
        return QUANTIZERS[self.method].parameter

    def quantizer(self, parameter: float) -> Quantizer:
        """The quantizer at one point of the curve."""
        options: dict[str, Any] = {name: getattr(self, name) for name in defaults_of(QUANTIZERS[self.method])}
        options[self.parameter] = int(parameter) if self.method == "kmeans" else float(parameter)
        return QUANTIZERS[self.method](**options)


METHODS: tuple[tuple[str, bool], ...] = tuple((m, weighted) for m in QUANTIZERS for weighted in (False, True))
"""All methods, each plain and weighted."""


def curve(method: Method, statistics: Statistics) -> list[OperatingPoint]:
    """Operating points of one method, from the lowest rate to the highest.

    The cost does not depend on the number of weights; the statistics keep what was found.

    Args:
        method: Method with its options.
        statistics: Of the selection.

    Returns:
        Points with the parameter running from coarse to fine; rates need not rise strictly.
    """
    if method not in statistics.curves:
        statistics.curves[method] = _points(method, statistics)
    return statistics.curves[method]


def point_at(
    method: Method, parameter: float, statistics: Statistics, near: OperatingPoint | None = None
) -> OperatingPoint:
    """The operating point of one parameter, on the curve or between its points.

    Args:
        method: Method with its options; the offset of uniform grids on a pruned selection is what costs least.
        parameter: Levels, step [weight] or λ [loss/bit].
        statistics: Of the selection.
        near: Point of the same method close by, from which a search may set out.
    """
    quantizer = _freed(method, statistics).quantizer(parameter)
    if isinstance(quantizer, Uniform):
        quantizer = quantizer.placed(statistics.cells(method.weighted, quantizer.needs_rows, method.per_layer))
    return operating_point(quantizer, statistics, near)


def _points(method: Method, statistics: Statistics) -> list[OperatingPoint]:
    cells = statistics.cells(method.weighted, QUANTIZERS[method.method].needs_rows, method.per_layer)
    if not cells:
        return []
    made = {"kmeans": _kmeans, "uniform": _uniform, "ecsq": _ecsq}[method.method](_freed(method, statistics), cells)
    return [point_of_clusters(quantizer, groups, statistics) for quantizer, groups in zip(*made, strict=True)]


def _freed(method: Method, statistics: Statistics) -> Method:
    """With an offset of each point's own where zeros are left out."""
    return replace(method, offset=None) if method.method == "uniform" and statistics.pruned else method


def curves(
    selection: Selection | Statistics,
    methods: Sequence[tuple[str, bool]] = METHODS,
    *,
    coding: Coding = "huffman",
    per_layer: bool = False,
    progress: Progress = True,
) -> pd.DataFrame:
    """Operating points of several methods, one a row.

    Args:
        selection: Selection, or its statistics.
        methods: Pairs of a method's name and whether it is weighted by sensitivity.
        coding: "huffman" or "fixed".
        per_layer: A codebook for each layer, or one for all.
        progress: True for progress bars, False for none, or a callable told (done, total), which may raise to cancel.

    Returns:
        Columns method, weighted, parameter (its name), value, levels, rate [bit/weight], compression_ratio,
        distortion [loss/weight], predicted_loss_increase [loss].
    """
    statistics = selection if isinstance(selection, Statistics) else Statistics.of(selection, progress)
    named = [Method(m, w, coding, per_layer) for m, w in methods]
    points = [p for method in track(named, "curves", progress) for p in curve(method, statistics)]
    return pd.DataFrame(
        {
            "method": [p.quantizer.method for p in points],
            "weighted": [p.quantizer.weighted for p in points],
            "parameter": [p.quantizer.parameter for p in points],
            "value": [p.parameter for p in points],
            "levels": [p.levels for p in points],
            "rate": [p.rate for p in points],
            "compression_ratio": [p.compression_ratio for p in points],
            "distortion": [p.distortion for p in points],
            "predicted_loss_increase": [p.predicted_loss_increase for p in points],
        }
    )


Found = tuple[list[Quantizer], list[dict[str, Clusters]]]


def _kmeans(method: Method, cells: dict[str, Cells]) -> Found:
    levels = range(1, min(MOST_KMEANS_LEVELS, max(len(c.position) for c in cells.values())) + 1)
    solved = {group: kmeans_clusters(c, levels, method.pinned_zero) for group, c in cells.items()}
    return [method.quantizer(k) for k in levels], [{g: s[i] for g, s in solved.items()} for i in range(len(levels))]


def _uniform(method: Method, cells: dict[str, Cells]) -> Found:
    position = np.concatenate([c.position for c in cells.values()])
    counts = np.concatenate([np.diff(c.prefix[:, 0]) for c in cells.values()])
    scale = np.sqrt(np.average(position**2, weights=counts))
    ends = 2 * np.abs(position).max(), scale * FINEST_STEP
    steps = np.geomspace(*ends, STEPS) if scale > 0 else np.ones(1)
    grids = [method.quantizer(step) for step in steps]
    placed: list[Quantizer] = [grid.placed(cells) for grid in grids if isinstance(grid, Uniform)]
    return placed, [{g: grid.clusters(c) for g, c in cells.items()} for grid in placed]


def _ecsq(method: Method, cells: dict[str, Cells]) -> Found:
    total = sum(c.prefix[-1] for c in cells.values())
    worst = 0.5 * float(total[3]) / float(total[0])
    lmbdas = np.geomspace(*LMBDA_RANGE, LMBDAS) * (worst if worst > 0 else 1.0)
    solved = {group: ecsq_hull(c, lmbdas) for group, c in cells.items()}
    return [method.quantizer(x) for x in lmbdas], [{g: s[i] for g, s in solved.items()} for i in range(len(lmbdas))]
