"""Optimal one-dimensional k-means by dynamic programming."""

import numpy as np
from numba import njit

Array = np.ndarray


@njit(cache=True, nogil=True, inline="always")
def _interval_cost(prefix: Array, i: int, j: int) -> float:
    s0 = prefix[j, 0] - prefix[i, 0]
    if s0 <= 0:
        return 0.0
    s1 = prefix[j, 1] - prefix[i, 1]
    return max(prefix[j, 2] - prefix[i, 2] - s1 * s1 / s0, 0.0)


@njit(cache=True, nogil=True)
def kmeans_table(prefix: Array, levels: int) -> tuple[Array, Array]:
    """See :func:`nbquant.kernels.reference.kmeans_table`.

    Divide and conquer: the best start never moves left as j grows, so one level costs m log m, not m².
    """
    m = len(prefix) - 1
    start = np.zeros((levels, m + 1), np.int32)
    total = np.empty(levels, np.float64)
    best = np.full(m + 1, np.inf)
    for j in range(1, m + 1):
        best[j] = _interval_cost(prefix, 0, j)
    total[0] = best[m]
    stack = np.empty((128, 4), np.int64)
    for k in range(1, levels):
        new = np.full(m + 1, np.inf)
        depth = 1
        stack[0] = (k + 1, m, k, m - 1)
        while depth > 0:
            depth -= 1
            first, last, low, high = stack[depth]
            j = (first + last) >> 1
            least, where = np.inf, low
            for i in range(low, min(j - 1, high) + 1):
                cost = best[i] + _interval_cost(prefix, i, j)
                if cost < least:
                    least, where = cost, i
            new[j], start[k, j] = least, where
            if first < j:
                stack[depth] = (first, j - 1, low, where)
                depth += 1
            if j < last:
                stack[depth] = (j + 1, last, where, high)
                depth += 1
        best = new
        total[k] = best[m]
    return total, start
