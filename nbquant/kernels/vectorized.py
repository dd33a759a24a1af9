"""NumPy replacements for compiled loops that would be too slow in plain Python.

They have the signatures and results of the loops in ``cpu`` that name them.
"""

import numpy as np

Array = np.ndarray


def merge(key_a: Array, sums_a: Array, key_b: Array, sums_b: Array) -> tuple[Array, Array]:
    """See :func:`nbquant.kernels.cpu.histogram.merge`."""
    key = np.union1d(key_a, key_b)
    sums = np.zeros((len(key), sums_a.shape[1]))
    sums[np.searchsorted(key, key_a)] = sums_a
    sums[np.searchsorted(key, key_b)] += sums_b
    return key, sums


def add_at(sums: Array, place: Array, terms: Array) -> None:
    """See :func:`nbquant.kernels.cpu.histogram.add_at`."""
    np.add.at(sums, place, terms)


def count_gaps(weight: Array, run: int, counts: Array, long: Array) -> tuple[int, int]:
    """See :func:`nbquant.kernels.cpu.gaps.count_gaps`."""
    where = np.flatnonzero(weight)
    if not len(where):
        return run + len(weight), 0
    gaps = np.diff(where, prepend=-1 - run) - 1
    short = gaps < len(counts)
    counts += np.bincount(gaps[short], minlength=len(counts))
    rest = gaps[~short]
    long[: len(rest)] = rest
    return len(weight) - 1 - int(where[-1]), len(rest)


def interval_cost(before: Array, after: Array) -> Array:
    """Compute Σhw² − (Σhw)²/Σh of clusters, from the running sums before and after each."""
    s0, s1, s2 = (after - before).T
    return np.maximum(np.where(s0 > 0, s2 - s1 * s1 / s0, 0.0), 0.0)


def extend(prefix: Array, best: Array, k: int, new: Array, start: Array) -> None:
    """See ``_extend`` of :mod:`nbquant.kernels.cpu.kmeans`: all bins of one depth of the division at once."""
    first, last = np.array([k + 1]), np.array([len(prefix) - 1])
    low, high = np.array([k]), np.array([len(prefix) - 2])
    while len(first):
        j = (first + last) >> 1
        sizes = np.minimum(j - 1, high) - low + 1
        begin = np.cumsum(sizes) - sizes
        i = np.arange(sizes.sum()) - np.repeat(begin - low, sizes)
        cost = best[i] + interval_cost(prefix[i], prefix[np.repeat(j, sizes)])
        new[j] = np.minimum.reduceat(cost, begin)
        found = np.flatnonzero(cost == np.repeat(new[j], sizes))
        start[j] = i[found[np.searchsorted(found, begin)]]  # the first of equals
        left, right = first < j, j < last
        first, last, low, high = (
            np.concatenate([first[left], j[right] + 1]),
            np.concatenate([j[left] - 1, last[right]]),
            np.concatenate([low[left], start[j[right]]]),
            np.concatenate([start[j[left]], high[right]]),
        )


def put_last_at_zero(prefix: Array, free: Array, k: int, new: Array, start: Array, is_zero: Array) -> None:
    """See ``_put_last_at_zero`` of :mod:`nbquant.kernels.cpu.kmeans`."""
    left = free[k:-1] - prefix[k:-1, 2]
    least = np.minimum.accumulate(left)
    falls = np.diff(least, prepend=np.inf) < 0
    where = np.maximum.accumulate(np.where(falls, np.arange(k, len(free) - 1), 0))
    cost = least + prefix[k + 1 :, 2]
    better = k + 1 + np.flatnonzero(cost < new[k + 1 :])
    new[better], start[better], is_zero[better] = cost[better - k - 1], where[better - k - 1], True


def lloyd(position: Array, prefix: Array, edges: Array, pinned: int, most: int) -> Array:
    """See :func:`nbquant.kernels.cpu.kmeans.lloyd`."""
    steps = np.arange(len(edges) - 2)
    for _ in range(most):
        s0, s1, _ = np.diff(prefix[edges], axis=0).T
        centre = np.where(s0 > 0, s1 / s0, position[edges[:-1]])
        if pinned >= 0:
            centre[pinned] = 0
        found = np.searchsorted(position, 0.5 * (centre[:-1] + centre[1:]), side="right")
        moved = edges.copy()
        moved[1:-1] = np.maximum(np.maximum.accumulate(found - steps), 1) + steps
        if (moved[1:] <= moved[:-1]).any() or (moved == edges).all():
            break
        edges = moved
    return edges


def cell_sums(
    row_start: Array, row_sensitivity: Array, position: Array, prefix: Array, codebook: Array, price: Array, _: Array
) -> Array:
    """See ``_sums`` of :mod:`nbquant.kernels.cpu.ecsq`: the lower envelopes of all rows at once.

    A codeword wins nowhere in a row if its right neighbour beats it before it beats its left one. Such codewords
    are removed until none is left.
    """
    rows, k = len(row_sensitivity), len(codebook)
    row, j = np.divmod(np.arange(rows * k), k)
    while True:
        a, b = j[:-1], j[1:]
        t = (
            0.5 * (codebook[a] + codebook[b])
            + (price[b] - price[a]) / (codebook[b] - codebook[a]) / row_sensitivity[row[1:]]
        )
        # Of codewords with equal cost everywhere, the first wins.
        t[np.isnan(t)] = np.inf
        last = row[:-1] != row[1:]
        begin = np.concatenate([[-np.inf], np.where(last, -np.inf, t)])
        end = np.concatenate([np.where(last, np.inf, t), [np.inf]])
        wins = begin < end
        if wins.all():
            break
        row, j = row[wins], j[wins]
    # Complex numbers are ordered by their real parts, and then by their imaginary parts.
    cell = _complex(np.repeat(np.arange(rows), np.diff(row_start)), position)
    edge = np.searchsorted(cell, _complex(row, end), side="right")
    won = prefix[edge] - prefix[np.concatenate([row_start[:1], edge[:-1]])]
    return np.stack([np.bincount(j, column, k) for column in won.T], axis=1)


def _complex(real: Array, imaginary: Array) -> Array:
    return np.stack([real, imaginary], axis=1).astype(np.float64).view(np.complex128)[:, 0]


def update(sums: Array, codebook: Array, n: float, lmbda: float) -> tuple[Array, Array, Array, float, bool]:
    """See ``_update`` of :mod:`nbquant.kernels.cpu.ecsq`."""
    alive = np.flatnonzero(sums[:, 0] > 0)
    count, s0, s1, s2 = sums[alive].T
    centre = np.where(s0 > 0, s1 / s0, codebook[alive])
    length = -np.log2(count / n)
    loss = 0.5 * np.maximum(s2 - 2 * centre * s1 + centre * centre * s0, 0.0)
    return alive, centre, length, float((loss + lmbda * count * length).sum() / n), bool((np.diff(centre) >= 0).all())


def ecsq_intervals(prefix: Array, lmbda: float) -> tuple[Array, float]:
    """See :func:`nbquant.kernels.cpu.ecsq.ecsq_intervals`: all starts of an interval at once."""
    m, n = len(prefix) - 1, prefix[-1, 0]
    best, start = np.zeros(m + 1), np.zeros(m + 1, np.int64)
    for j in range(1, m + 1):
        count = prefix[j, 0] - prefix[:j, 0]
        distortion = 0.5 * interval_cost(prefix[:j, 1:], prefix[j, 1:])
        cost: Array = best[:j] + distortion + lmbda * count * np.log2(n / count)
        start[j] = cost.argmin()
        best[j] = cost[start[j]]
    edges = [m]
    while edges[-1] > 0:
        edges.append(int(start[edges[-1]]))
    return np.array(edges[::-1]), float(best[m] / n)
