"""The least J = D + λR that is found on the cells of a histogram."""

import numpy as np
from jaxtyping import Float, Int64

from nbquant.kernels.cpu import ecsq as kernels
from nbquant.quantization.clusters import Clusters, centres
from nbquant.quantization.histogram import Cells

START_LEVELS = 256  # the most a solution can have
WIDEN = 1.02  # the least widening of the step while it has more levels than that
MOST_CELLS = 1 << 20  # the reach of the start's grid
START_SCALES = (0.5, 1.0, 2.0)  # of the step that would be right at a high rate and constant h
DOUBLINGS = 8  # of λ, from a fine solution to the one asked for
TOLERANCE = 1e-6
MOST_ITERATIONS = 300

Start = tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]  # codebook and ideal codeword lengths


def ideal_length(counts: Float[np.ndarray, " k"] | Int64[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """−log2 p of each cluster [bit]."""
    return -np.log2(counts / counts.sum())


def ecsq_clusters(cells: Cells, lmbda: float, near: Clusters | None = None) -> Clusters:
    """Solve ECSQ on the cells.

    Args:
        cells: Cells with rows of h.
        lmbda: λ [loss/bit].
        near: Solution at a neighbouring λ to set out from; None tries several uniform ones, and to come from a far
            smaller λ by doubling it. The latter keeps levels where h is large, which no uniform start knows of: with
            heavy-tailed h its J is up to a third lower.

    Returns:
        The clusters of least J that were found.
    """
    grid = (cells.row_start, cells.row_sensitivity, cells.position)

    def iterate(start: Start, lmbda: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return kernels.ecsq_iterate(*grid, cells.prefix, *start, lmbda, TOLERANCE, MOST_ITERATIONS)

    if near is not None:
        solved = [iterate((near.codebook, ideal_length(near.counts)), lmbda)]
    else:
        solved = [iterate(_uniform_start(cells, lmbda, scale), lmbda) for scale in START_SCALES]
        start = _uniform_start(cells, lmbda / 2**DOUBLINGS, 1.0)
        for d in range(DOUBLINGS, 0, -1):
            start = iterate(start, lmbda / 2**d)[:2]
        solved.append(iterate(start, lmbda))
    codebook, length, _ = min(solved, key=lambda s: s[2][-1])
    true = kernels.ecsq_sums(*grid, cells.true_prefix, codebook, lmbda * length)
    threshold = None
    if len(cells.row_sensitivity) == 1 and (true[:, 0] > 0).all():
        threshold = _thresholds(codebook, length, lmbda, cells.row_sensitivity[0])
    return Clusters.of_sums(codebook, true, threshold)


def _thresholds(
    codebook: Float[np.ndarray, " k"], length: Float[np.ndarray, " k"], lmbda: float, sensitivity: float
) -> Float[np.ndarray, " k-1"]:
    """Where neighbouring codewords cost the same, for one h."""
    middle = 0.5 * (codebook[:-1] + codebook[1:])
    return middle + lmbda * np.diff(length) / (sensitivity * np.diff(codebook))


def _uniform_start(cells: Cells, lmbda: float, scale: float) -> Start:
    """Means and ideal lengths of uniform cells of a width where D(R) has the slope −λ.

    With D = hΔ²/24, dD/dR = −2 ln 2 · D.
    """
    n, mass = cells.prefix[-1, 0], cells.prefix[-1, 1]
    counts = np.diff(cells.prefix[:, 0])
    low, high = cells.position.min(), cells.position.max()
    if not high > low:
        return np.array([low]), np.zeros(1)
    step = scale * np.sqrt(12 * lmbda * n / (np.log(2) * mass))
    step = min(max(step, (high - low) / MOST_CELLS), high - low)
    used, index = np.unique(np.rint(cells.position / step), return_inverse=True)
    # What counts is the cells in use: one outlier makes a wide range, but few of them.
    while len(used) > START_LEVELS:
        step *= max(WIDEN, len(used) / START_LEVELS)
        used, index = np.unique(np.rint(cells.position / step), return_inverse=True)
    sums = np.diff(cells.prefix[:, 1:3], axis=0)
    codebook = centres(np.bincount(index, sums[:, 0]), np.bincount(index, sums[:, 1]), used * step)
    return codebook, ideal_length(np.bincount(index, counts))
