"""Kernels of optimal one-dimensional k-means: dynamic programming, and Lloyd iterations on bins."""

import numpy as np

from nbquant.kernels.compiled import compiled

Array = np.ndarray


@compiled(inline=True)
def _interval_cost(prefix: Array, i: int, j: int) -> float:
    s0 = prefix[j, 0] - prefix[i, 0]
    if s0 <= 0:
        return 0.0
    s1 = prefix[j, 1] - prefix[i, 1]
    return max(prefix[j, 2] - prefix[i, 2] - s1 * s1 / s0, 0.0)


@compiled()
def _push(stack: Array, depth: int, first: int, last: int, low: int, high: int) -> None:
    """Write the numbers one by one: numba takes seconds to compile the assignment of a tuple to a row."""
    stack[depth, 0], stack[depth, 1], stack[depth, 2], stack[depth, 3] = first, last, low, high


@compiled()
def _extend(prefix: Array, best: Array, k: int, new: Array, start: Array) -> None:
    """Best cost of the bins 0 … j−1 with one more cluster than ``best``, which has k, and the start of the last one.

    Divide and conquer: the best start never moves left as j grows, so this costs m log m, not m².
    """
    m = len(prefix) - 1
    stack = np.empty((128, 4), np.int64)
    _push(stack, 0, k + 1, m, k, m - 1)
    depth = 1
    while depth > 0:
        depth -= 1
        first, last, low, high = stack[depth, 0], stack[depth, 1], stack[depth, 2], stack[depth, 3]
        j = (first + last) >> 1
        least, where = np.inf, low
        for i in range(low, min(j - 1, high) + 1):
            cost = best[i] + _interval_cost(prefix, i, j)
            if cost < least:
                least, where = cost, i
        new[j], start[j] = least, where
        if first < j:
            _push(stack, depth, first, j - 1, low, where)
            depth += 1
        if j < last:
            _push(stack, depth, j + 1, last, where, high)
            depth += 1


@compiled()
def _unreached(bins: int) -> Array:
    """Infinite costs, by a loop, as numba takes longer to compile numpy's functions of whole arrays."""
    cost = np.empty(bins + 1, np.float64)
    for j in range(bins + 1):
        cost[j] = np.inf
    return cost


@compiled()
def kmeans_table(prefix: Array, levels: int) -> tuple[Array, Array]:
    """See :func:`nbquant.kernels.reference.kmeans_table`."""
    m = len(prefix) - 1
    start = np.zeros((levels, m + 1), np.int32)
    total = np.empty(levels, np.float64)
    best = _unreached(m)
    for j in range(1, m + 1):
        best[j] = _interval_cost(prefix, 0, j)
    total[0] = best[m]
    for k in range(1, levels):
        new = _unreached(m)
        _extend(prefix, best, k, new, start[k])
        best = new
        total[k] = best[m]
    return total, start


@compiled()
def _put_last_at_zero(prefix: Array, free: Array, k: int, new: Array, start: Array, is_zero: Array) -> None:
    """Turn the last of k + 1 clusters into the one at zero where that costs less, given none before it is at zero."""
    # The cost of a cluster at zero is a difference of prefix sums, so its best start minimises the part before it.
    least, where = np.inf, 0
    for j in range(k + 1, len(prefix)):
        if free[j - 1] - prefix[j - 1, 2] < least:
            least, where = free[j - 1] - prefix[j - 1, 2], j - 1
        if least + prefix[j, 2] < new[j]:
            new[j], start[j], is_zero[j] = least + prefix[j, 2], where, True


@compiled()
def pinned_kmeans_table(prefix: Array, levels: int) -> tuple[Array, Array, Array, Array]:
    """See :func:`nbquant.kernels.reference.pinned_kmeans_table`."""
    m = len(prefix) - 1
    free_start, start = np.zeros((levels, m + 1), np.int32), np.zeros((levels, m + 1), np.int32)
    is_zero = np.zeros((levels, m + 1), np.bool_)
    total = np.empty(levels, np.float64)
    free, best = _unreached(m), _unreached(m)
    for j in range(1, m + 1):
        free[j] = _interval_cost(prefix, 0, j)
        best[j] = prefix[j, 2] - prefix[0, 2]
        is_zero[0, j] = True
    total[0] = best[m]
    for k in range(1, levels):
        new_free, new = _unreached(m), _unreached(m)
        _extend(prefix, free, k, new_free, free_start[k])
        _extend(prefix, best, k, new, start[k])
        _put_last_at_zero(prefix, free, k, new, start[k], is_zero[k])
        free, best = new_free, new
        total[k] = best[m]
    return total, free_start, start, is_zero


@compiled()
def lloyd(position: Array, prefix: Array, edges: Array, pinned: int, most: int) -> Array:
    """Move the edges between clusters to the midpoints of neighbouring centres until they are stable.

    Args:
        position: Mean w of each bin, ascending.
        prefix: Running sums of mass, mass·w, mass·w².
        edges: First bin of each cluster, and the number of bins.
        pinned: Cluster whose centre is zero; −1 for none.
        most: Largest number of rounds.

    Returns:
        Final edges; no cluster is empty.
    """
    k = len(edges) - 1
    centre, moved, other = np.empty(k, np.float64), np.empty(k + 1, np.int64), np.empty(k + 1, np.int64)
    for _ in range(most):
        for c in range(k):
            s0 = prefix[edges[c + 1], 0] - prefix[edges[c], 0]
            s1 = prefix[edges[c + 1], 1] - prefix[edges[c], 1]
            # The mass of a few weights of h = 0 is lost in running sums.
            centre[c] = 0.0 if c == pinned else s1 / s0 if s0 > 0 else position[edges[c]]
        moved[0], moved[k] = edges[0], edges[k]
        stable = True
        for c in range(1, k):
            middle = 0.5 * (centre[c - 1] + centre[c])
            low, high = 0, len(position)
            while low < high:
                half = (low + high) >> 1
                if position[half] <= middle:
                    low = half + 1
                else:
                    high = half
            moved[c] = max(moved[c - 1] + 1, low)
            stable &= moved[c] == edges[c]
        if moved[k] <= moved[k - 1] or stable:
            break
        edges, moved, other = moved, other, moved
    return edges


@compiled()
def edges_of(start: Array, levels: int) -> Array:
    """Trace the edges of ``levels`` clusters from a table of the last clusters' first bins."""
    edges = np.empty(levels + 1, np.int64)
    edges[levels] = start.shape[1] - 1
    for c in range(levels, 0, -1):
        edges[c - 1] = start[c - 1, edges[c]]
    return edges
