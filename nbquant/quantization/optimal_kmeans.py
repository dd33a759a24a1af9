"""The global optimum of weighted k-means on the cells of a histogram, for every number of levels at once."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from nbquant.kernels.cpu import kmeans as kernels
from nbquant.quantization.clusters import Clusters, centres
from nbquant.quantization.histogram import Cells


def kmeans_clusters(cells: Cells, levels: Sequence[int]) -> list[Clusters]:
    """Optimal clusters for several numbers of levels, from one table.

    Args:
        cells: Cells without rows of h.
        levels: Numbers of levels; where there are fewer cells, as many as there are cells.

    Returns:
        For each of ``levels`` the optimal clusters on the cells.
    """
    m = len(cells.position)
    _, start = kernels.kmeans_table(np.ascontiguousarray(cells.prefix[:, 1:]), min(max(levels), m))
    return [_from_table(cells, start, min(k, m)) for k in levels]


def _from_table(cells: Cells, start: Int64[np.ndarray, "k m+1"], levels: int) -> Clusters:
    edges = np.empty(levels + 1, np.int64)
    edges[levels] = len(cells.position)
    for k in range(levels, 0, -1):
        edges[k - 1] = start[k - 1, edges[k]]
    _, s0, s1, _ = np.diff(cells.prefix[edges], axis=0).T
    counts = np.diff(cells.prefix[:, 0])
    plain = np.add.reduceat(cells.position * counts, edges[:-1]) / np.add.reduceat(counts, edges[:-1])
    codebook = centres(s0, s1, plain)
    true = np.diff(cells.true_prefix[edges], axis=0)
    return Clusters.of_sums(codebook, true, 0.5 * (codebook[:-1] + codebook[1:]))
