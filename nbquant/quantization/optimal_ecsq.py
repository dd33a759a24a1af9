"""Near-optimal ECSQ on the cells of a histogram: least J = D + λR from several starts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from nbquant.kernels.cpu import ecsq as kernels
from nbquant.quantization.clusters import Clusters, centres
from nbquant.quantization.histogram import Cells

MOST_EDGES = 1000  # candidate interval ends, and so the most levels of a solution
FINE_EDGES = 4000  # the same if a single λ is solved for
FINER = (1, 4, 16, 64)  # factors by which λ is divided for further starts
MOST_CROSSED = 1000  # levels of a start made from two solutions
CLIMB = (256, 64, 16, 4)  # factors by which λ is divided at first, to approach it from below
UNIFORM_SCALE = 0.5  # of the right step at a high rate and constant h
DETOURS = (1.5, 0.7)  # factors on λ whose solutions are tried as starts
MOST_DETOURS = 3  # rounds of each
ANCHOR_EVERY = 4  # every so many λ of a hull have starts of their own
ON_THE_WAY = 1e-4  # tolerance of solutions that are only starts
TOLERANCE = 1e-5
MOST_ITERATIONS = 300

Start = tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]  # codebook and ideal codeword lengths


@dataclass(frozen=True)
class _Solution:
    """A codebook, ascending, with its ideal codeword lengths [bit], distortion and rate."""

    codebook: Float[np.ndarray, " k"]
    length: Float[np.ndarray, " k"]
    distortion: float
    rate: float

    def cost(self, lmbda: float) -> float:
        """Compute J at any λ: a solution for one λ is an upper bound at all."""
        return self.distortion + lmbda * self.rate

    @property
    def start(self) -> Start:
        return self.codebook, self.length


def ideal_length(counts: Float[np.ndarray, " k"] | Int64[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Compute −log2 p of each cluster [bit]."""
    return -np.log2(counts / counts.sum())


def ecsq_clusters(cells: Cells, lmbda: float, near: Clusters | None = None) -> Clusters:
    """Solve ECSQ on the cells.

    With one row of h, the start is the optimal partition into intervals, which is the optimum. With several, the
    problem has many local optima, a few tenths of a percent apart, and no start is best everywhere: intervals
    do well at high rates and where h is nearly constant or grows with |w|; uniform cells where h falls steeply with
    |w|; and for heavy-tailed h a solution for a far smaller λ that is raised in steps, because it keeps levels where h
    is large. So several are tried and then combined.

    Args:
        cells: Cells with rows of h.
        lmbda: λ [loss/bit].
        near: Solution at a neighbouring λ, as the only start.

    Returns:
        The best clusters found.
    """
    if near is not None:
        return _clusters(cells, _iterate(cells, (near.codebook, ideal_length(near.counts)), lmbda, ON_THE_WAY), lmbda)
    if len(cells.row_sensitivity) == 1:
        return _clusters(cells, _iterate(cells, _interval_start(_single_row(cells), lmbda), lmbda), lmbda)
    row = _single_row(cells, FINE_EDGES)
    solved = []
    for make in (_interval_start, _uniform_start):
        for finer in FINER:
            start = make(row, lmbda / finer)
            if finer > 1 and len(start[0]) > MOST_CROSSED // 2:
                break
            solved.append(_iterate(cells, start, lmbda))
    solved.append(_bring_up(cells, _interval_start(row, lmbda / CLIMB[0]), lmbda))
    return _clusters(cells, _wander(cells, _cross(cells, solved, lmbda), lmbda), lmbda)


def ecsq_hull(cells: Cells, lmbdas: Sequence[float] | Float[np.ndarray, " l"]) -> list[Clusters]:
    """Solve ECSQ for many λ together: the lower convex hull of D over R.

    From the finest λ to the coarsest, each solution starts the next one, and every few λ have additional starts.
    Then each is combined with its neighbours, in both directions; finally, since any solution bounds J
    at every λ, each λ continues from the one with the lowest J there.

    Args:
        cells: Cells with rows of h.
        lmbdas: λ [loss/bit], in any order.

    Returns:
        The best clusters found for each λ, in the order of ``lmbdas``.
    """
    order = np.argsort(np.asarray(lmbdas, np.float64), kind="stable")
    rising = [float(lmbdas[i]) for i in order]
    row = _single_row(cells)
    several = len(cells.row_sensitivity) > 1
    best: list[_Solution] = []
    for i, lmbda in enumerate(rising):
        starts = [best[-1].start] if best else []
        if not several or i % ANCHOR_EVERY == 0:
            starts.append(_interval_start(row, lmbda))
        if several and i % ANCHOR_EVERY == 0:
            starts.append(_uniform_start(row, lmbda))
        best.append(_cross(cells, [_iterate(cells, s, lmbda, ON_THE_WAY) for s in starts], lmbda))
    for i in reversed(range(len(rising) - 1)):
        best[i] = _cross(cells, best[i : i + 2], rising[i])
    for i in range(1, len(rising)):
        best[i] = _cross(cells, best[i - 1 : i + 1], rising[i])
    for i, lmbda in enumerate(rising):
        bound = _least(best, lmbda)
        if bound is not best[i]:
            best[i] = _least([bound, _iterate(cells, bound.start, lmbda)], lmbda)
    place = np.argsort(order, kind="stable")
    return [_clusters(cells, best[i], rising[i]) for i in place]


def _least(solutions: Sequence[_Solution], lmbda: float) -> _Solution:
    return min(solutions, key=lambda s: s.cost(lmbda))


def _iterate(cells: Cells, start: Start, lmbda: float, tolerance: float = TOLERANCE) -> _Solution:
    codebook, length, history = kernels.ecsq_iterate(
        cells.row_start, cells.row_sensitivity, cells.position, cells.prefix, *start, lmbda, tolerance, MOST_ITERATIONS
    )
    rate = float((np.exp2(-length) * length).sum())
    return _Solution(codebook, length, float(history[-1]) - lmbda * rate, rate)


def _bring_up(cells: Cells, start: Start, lmbda: float) -> _Solution:
    """Solve for a far smaller λ, use the result as start for a larger one, and so on: levels drop out one by one."""
    for finer in CLIMB:
        start = _iterate(cells, start, lmbda / finer, ON_THE_WAY).start
    return _iterate(cells, start, lmbda)


def _cross(cells: Cells, solutions: Sequence[_Solution], lmbda: float) -> _Solution:
    """Start from the union of the best solution's codewords and another's: the better parts of either survive."""
    best, *others = sorted(solutions, key=lambda s: s.cost(lmbda))
    for other in others:
        if len(best.codebook) + len(other.codebook) > MOST_CROSSED:
            continue
        codebook = np.concatenate([best.codebook, other.codebook])
        length = np.concatenate([best.length, other.length]) + 1  # the union shares one code
        order = np.argsort(codebook, kind="stable")
        best = _least([best, _iterate(cells, (codebook[order], length[order]), lmbda)], lmbda)
    return best


def _wander(cells: Cells, best: _Solution, lmbda: float) -> _Solution:
    """Leave local optima via solutions at other λ, as long as J falls."""
    failed = 0
    for factor in DETOURS * MOST_DETOURS:
        away = _iterate(cells, best.start, lmbda * factor, ON_THE_WAY)
        found = _iterate(cells, away.start, lmbda)
        failed = 0 if found.cost(lmbda) < best.cost(lmbda) * (1 - ON_THE_WAY) else failed + 1
        best = _least([best, found], lmbda)
        if failed == len(DETOURS):
            break
    return best


def _clusters(cells: Cells, found: _Solution, lmbda: float) -> Clusters:
    """The clusters of a solution, with its true sums."""
    grid = cells.row_start, cells.row_sensitivity, cells.position
    true = kernels.ecsq_sums(*grid, cells.true_prefix, found.codebook, lmbda * found.length)
    threshold = None
    if len(cells.row_sensitivity) == 1 and (true[:, 0] > 0).all():
        threshold = _thresholds(found.codebook, found.length, lmbda, cells.row_sensitivity[0])
    return Clusters.of_sums(found.codebook, true, threshold)


def _thresholds(
    codebook: Float[np.ndarray, " k"], length: Float[np.ndarray, " k"], lmbda: float, sensitivity: float
) -> Float[np.ndarray, " k-1"]:
    """Weights at which neighbouring codewords cost the same, for one h."""
    middle = 0.5 * (codebook[:-1] + codebook[1:])
    return middle + lmbda * np.diff(length) / (sensitivity * np.diff(codebook))


def _single_row(cells: Cells, most: int = MOST_EDGES) -> Float[np.ndarray, "m+1 4"]:
    """Running sums of all cells in one row, merged to about so many bins of equal share.

    A bin's share is the cube root of mass · width²: a compromise between few levels, which need the cube root of the
    mass, and many, which need the width.
    """
    order = np.argsort(cells.position, kind="stable")
    sums = np.diff(cells.prefix, axis=0)[order]
    if len(order) > most:
        position = cells.position[order]
        share = np.cumsum(np.cbrt(np.maximum(sums[:, 1], 0) * np.diff(position, append=position[-1]) ** 2))
        if share[-1] > 0:
            bins = (share / share[-1] * most).astype(np.int64)
            sums = np.add.reduceat(sums, np.flatnonzero(np.diff(bins, prepend=-1)), axis=0)
    return np.vstack([np.zeros(4), np.cumsum(sums, axis=0)])


def _interval_start(row: Float[np.ndarray, "m+1 4"], lmbda: float) -> Start:
    """Means and ideal lengths of the intervals of least J."""
    edges, _ = kernels.ecsq_intervals(row, lmbda)
    counts, s0, s1, _ = np.diff(row[edges], axis=0).T
    codebook = centres(s0, s1, np.zeros(len(counts)))
    order = np.argsort(codebook, kind="stable")
    return codebook[order], ideal_length(counts[order])


def _uniform_start(row: Float[np.ndarray, "m+1 4"], lmbda: float) -> Start:
    """Means and ideal lengths of uniform cells, of a width where D(R) has the slope −λ or finer.

    With D = hΔ²/24, dD/dR = −2 ln 2 · D.
    """
    n, s0, s1, _ = np.diff(row, axis=0).T
    step = UNIFORM_SCALE * np.sqrt(12 * lmbda * n.sum() / (np.log(2) * s0.sum()))
    position = centres(s0, s1, np.zeros(len(n)))
    used, index = np.unique(np.rint(position / step), return_inverse=True)
    codebook = centres(np.bincount(index, s0), np.bincount(index, s1), used * step)
    return codebook, ideal_length(np.bincount(index, n))
