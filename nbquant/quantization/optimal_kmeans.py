"""Optimal weighted k-means on the cells of a histogram, for all numbers of levels at once."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int64

from nbquant.kernels.cpu import kmeans as kernels
from nbquant.quantization.clusters import Clusters, centres
from nbquant.quantization.histogram import Cells

MOST_CANDIDATES = 1 << 12  # candidate edges; with fewer cells all are candidates, and the result is the exact optimum
LLOYD_ROUNDS = 50
WIDEST = 2.0**-7  # of w: assumed width of a bin with empty neighbours


def kmeans_clusters(cells: Cells, levels: Sequence[int], pinned_zero: bool = False) -> list[Clusters]:
    """Find the optimal clusters for several numbers of levels from one table.

    Args:
        cells: Cells without rows of h.
        levels: Numbers of levels; capped at the number of cells.
        pinned_zero: Whether one of the centres is exactly zero.

    Returns:
        For each of ``levels``, the clusters of least Σ mass (w − c)².
    """
    candidates = _candidates(cells)
    most = len(candidates) - 1
    prefix = np.ascontiguousarray(cells.prefix[:, 1:])
    paths = _pinned_paths if pinned_zero else _paths
    found = paths(prefix[candidates], [min(k, most) for k in levels])
    exact = most == len(cells.position)
    result = []
    for path, pinned in found:
        edges = candidates[path]
        if not exact:
            edges = kernels.lloyd(cells.position, prefix, edges, pinned, LLOYD_ROUNDS)
        result.append(_clusters(cells, edges, pinned))
    return result


def _candidates(cells: Cells) -> Int64[np.ndarray, " c"]:
    """Cells where a cluster may start, and the number of cells.

    If there are too many, they are as dense as the centres of the best quantizer: the cube root of the density of mass.
    """
    m = len(cells.position)
    if m <= MOST_CANDIDATES:
        return np.arange(m + 1)
    # The distance of an outlier from the others is no reason to resolve it finely.
    width = np.minimum(np.gradient(cells.position), WIDEST * np.abs(cells.position))
    share = np.cumsum(np.cbrt(np.diff(cells.prefix[:, 1]) * width**2))
    wanted = np.arange(1, MOST_CANDIDATES) / MOST_CANDIDATES * share[-1]
    starts = np.minimum(np.searchsorted(share, wanted) + 1, m - 1)
    return np.concatenate([[0], np.unique(starts), [m]])


def _paths(prefix: Float[np.ndarray, "m+1 3"], levels: Sequence[int]) -> list[tuple[Int64[np.ndarray, " k+1"], int]]:
    """Edges of the clusters for each number of levels, unpinned."""
    _, start = kernels.kmeans_table(prefix, max(levels))
    return [(kernels.edges_of(start, k), -1) for k in levels]


def _pinned_paths(
    prefix: Float[np.ndarray, "m+1 3"], levels: Sequence[int]
) -> list[tuple[Int64[np.ndarray, " k+1"], int]]:
    """Edges of the clusters for each number of levels, and the index of the cluster at zero."""
    _, free_start, start, is_zero = kernels.pinned_kmeans_table(prefix, max(levels))
    found = []
    for k in levels:
        edges = np.empty(k + 1, np.int64)
        edges[k] = len(prefix) - 1
        pinned = -1
        for c in range(k, 0, -1):
            edges[c - 1] = (start if pinned < 0 else free_start)[c - 1, edges[c]]
            if pinned < 0 and is_zero[c - 1, edges[c]]:
                pinned = c - 1
        found.append((edges, pinned))
    return found


def _clusters(cells: Cells, edges: Int64[np.ndarray, " k+1"], pinned: int) -> Clusters:
    _, s0, s1, _ = np.diff(cells.prefix[edges], axis=0).T
    counts = np.diff(cells.prefix[:, 0])
    plain = np.add.reduceat(cells.position * counts, edges[:-1]) / np.add.reduceat(counts, edges[:-1])
    codebook = centres(s0, s1, plain)
    if pinned >= 0:
        codebook[pinned] = 0
    true = np.diff(cells.true_prefix[edges], axis=0)
    return Clusters.of_sums(codebook, true, 0.5 * (codebook[:-1] + codebook[1:]))
