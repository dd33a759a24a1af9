"""Kernels of ECSQ: Lloyd-like iteration on the cells of a joint histogram, and optimal intervals of sorted bins."""

import numpy as np

from nbquant.kernels.compiled import compiled
from nbquant.kernels.cpu.envelope import envelope

Array = np.ndarray

LEAST_H = 1e-300  # whose inverse is finite


@compiled(inline=True)
def _first_above(position: Array, value: float, low: int, high: int, guess: int) -> int:
    """First index of ``low`` … ``high`` whose position is above ``value``: galloping from a guess, then bisection."""
    if low < high:
        guess = min(max(guess, low), high - 1)
        step = 1
        if position[guess] <= value:
            low = guess + 1
            while low < high:
                probe = min(low + step, high) - 1
                if position[probe] > value:
                    high = probe
                    break
                low = probe + 1
                step *= 2
        else:
            high = guess
            while low < high:
                probe = max(high - step, low)
                if position[probe] <= value:
                    low = probe + 1
                    break
                high = probe
                step *= 2
    while low < high:
        half = (low + high) >> 1
        if position[half] <= value:
            low = half + 1
        else:
            high = half
    return low


@compiled()
def _sums(
    row_start: Array,
    row_sensitivity: Array,
    position: Array,
    prefix: Array,
    codebook: Array,
    price: Array,
    bound: Array,
) -> Array:
    """Sums of the cells won by each codeword; ``bound`` holds the last ends of its cells, and is updated."""
    k = len(codebook)
    sums = np.zeros((k, 4), np.float64)
    kept, threshold = np.arange(k, dtype=np.int32), np.empty(k, np.float64)
    depth = k
    # As h falls, prices weigh more: a codeword that wins nowhere at one h wins nowhere at a smaller one.
    for r in range(len(row_sensitivity) - 1, -1, -1):
        i, end = row_start[r], row_start[r + 1]
        h = row_sensitivity[r]
        if h > LEAST_H:
            depth = envelope(1 / h, codebook, price, kept, depth, threshold)
        else:
            kept[0], depth = np.argmin(price), 1
        for d in range(depth):
            if i == end:
                break
            j = kept[d]
            low = end
            if d < depth - 1:
                low = _first_above(position, threshold[d], i, end, bound[r, j])
                bound[r, j] = low
            if low > i:
                for c in range(4):
                    sums[j, c] += prefix[low, c] - prefix[i, c]
                i = low
    return sums


@compiled()
def ecsq_sums(
    row_start: Array, row_sensitivity: Array, position: Array, prefix: Array, codebook: Array, price: Array
) -> Array:
    """Sum the cells won by each codeword.

    Args:
        row_start: First cell of each row, and the number of cells.
        row_sensitivity: Mean h of each row, ascending.
        position: Mean w of each cell, ascending within a row.
        prefix: Running sums of four quantities before each cell and after the last.
        codebook: Codewords, ascending.
        price: Rate cost λℓ of each codeword [loss].

    Returns:
        One row of four sums per codeword; a cell goes to the codeword of least ½h(w − c)² + price, ties to the lowest.
    """
    bound = np.zeros((len(row_sensitivity), len(codebook)), np.int32)
    return _sums(row_start, row_sensitivity, position, prefix, codebook, price, bound)


@compiled()
def _update(sums: Array, codebook: Array, n: float, lmbda: float) -> tuple[Array, Array, Array, float, bool]:
    """Non-empty clusters, their centres and ideal lengths, J per weight, and whether the centres ascend."""
    alive = np.flatnonzero(sums[:, 0] > 0)
    centre, length = np.empty(len(alive)), np.empty(len(alive))
    cost, ascending = 0.0, True
    for j in range(len(alive)):
        count, s0, s1, s2 = sums[alive[j], 0], sums[alive[j], 1], sums[alive[j], 2], sums[alive[j], 3]
        # A cluster of zero sensitivity keeps its centre.
        c = s1 / s0 if s0 > 0 else codebook[alive[j]]
        centre[j] = c
        length[j] = -np.log2(count / n)
        cost += 0.5 * max(s2 - 2 * c * s1 + c * c * s0, 0.0) + lmbda * count * length[j]
        ascending &= j == 0 or c >= centre[j - 1]
    return alive, centre, length, cost / n, ascending


@compiled()
def ecsq_iterate(
    row_start: Array,
    row_sensitivity: Array,
    position: Array,
    prefix: Array,
    codebook: Array,
    codeword_length: Array,
    lmbda: float,
    tolerance: float,
    most: int,
) -> tuple[Array, Array, Array]:
    """Iterate ECSQ (Lloyd-like) on the cells of a joint histogram, with momentum where that lowers J.

    Each assignment uses codewords and lengths extrapolated along the last step; if J rises, the step is
    repeated without momentum. Momentum takes fewer steps and often ends lower than the plain iteration, never higher
    than the start.

    Args:
        row_start: First cell of each row, and the number of cells.
        row_sensitivity: Mean h of each row, ascending.
        position: Mean w of each cell, ascending within a row.
        prefix: Running sums of n, Σh, Σhw, Σhw² before each cell and after the last.
        codebook: Initial codewords, ascending.
        codeword_length: Initial ℓ [bit].
        lmbda: λ [loss/bit].
        tolerance: Stops when a plain step lowers J by less than this share.
        most: Largest number of assignments.

    Returns:
        Codebook, ideal codeword lengths −log2 p, and J per weight after each step, which never rises.

    Source: Chou, Lookabaugh, Gray 1989; Choi et al. 2017, algorithm 1. Momentum: Nesterov 1983, restarted as in
    O'Donoghue and Candès 2015.
    """
    n = prefix[-1, 0] - prefix[0, 0]
    history = np.empty(most, np.float64)
    done, pace = 0, 0
    bound = np.zeros((len(row_sensitivity), len(codebook)), np.int32)
    for r in range(len(row_sensitivity)):
        bound[r] = row_start[r]
    tried_codebook, tried_length = codebook, codeword_length
    for _ in range(most):
        price = lmbda * tried_length
        sums = _sums(row_start, row_sensitivity, position, prefix, tried_codebook, price, bound)
        alive, new_codebook, new_length, cost, ascending = _update(sums, codebook, n, lmbda)
        if done > 0 and cost > history[done - 1]:
            if pace == 0:  # due to rounding
                break
            tried_codebook, tried_length, pace = codebook, codeword_length, 0
            continue
        slow = done > 0 and history[done - 1] - cost <= tolerance * cost
        history[done] = cost
        done += 1
        if not ascending:
            order = np.argsort(new_codebook)
            new_codebook, new_length, alive = new_codebook[order], new_length[order], alive[order]
        step, longer = new_codebook - codebook[alive], new_length - codeword_length[alive]
        if not ascending or len(alive) < len(codebook):
            bound = bound[:, alive]
        codebook, codeword_length = new_codebook, new_length
        tried_codebook, tried_length = codebook, codeword_length
        if slow and pace == 0:
            break
        if slow or done == 1:  # the first step has no direction
            pace = 0
            continue
        pace += 1
        push = pace / (pace + 3)
        carried = codebook + push * step
        if (np.diff(carried) >= 0).all():
            tried_codebook, tried_length = carried, codeword_length + push * longer
        else:
            pace = 0
    return codebook, codeword_length, history[:done]


@compiled()
def ecsq_intervals(prefix: Array, lmbda: float) -> tuple[Array, float]:
    """Partition sorted bins into intervals of least J: a shortest path from the first edge to the last.

    An interval of n of the N weights costs ½(Σhw² − (Σhw)²/Σh) + λ r(n), with r(n) = n log2(N/n). With G(i) the
    least cost of the bins before i, any path to j whose last interval begins at or before i costs at least
    G(i) + D(i, j) + λ r(n before j) − λ r(n before i): distortion only grows when intervals are joined, and r is
    concave, so that the interval's part before i saves no more rate than all that lies before i could. A scan of i
    downwards from j stops where that is no less than the best already found.

    Args:
        prefix: Running sums of n, Σh, Σhw, Σhw² before each bin, ascending in w, and after the last.
        lmbda: λ [loss/bit].

    Returns:
        Edges of the intervals, 0 to the number of bins; and J per weight.

    Source: Muresan and Effros 2008, "Quantization as histogram segmentation". The bound is ours.
    """
    m = len(prefix) - 1
    n = prefix[m, 0]
    best, reserve = np.zeros(m + 1), np.zeros(m + 1)  # G, and G − λ r(n before)
    start = np.zeros(m + 1, np.int64)
    for j in range(1, m + 1):
        before = lmbda * prefix[j, 0] * np.log2(n / prefix[j, 0])
        least = np.inf
        for i in range(j - 1, -1, -1):
            s0, s1, s2 = prefix[j, 1] - prefix[i, 1], prefix[j, 2] - prefix[i, 2], prefix[j, 3] - prefix[i, 3]
            distortion = max(0.5 * (s2 - s1 * s1 / s0), 0.0) if s0 > 0 else 0.0
            if reserve[i] + distortion >= least - before:
                break
            if best[i] + distortion < least:
                count = prefix[j, 0] - prefix[i, 0]
                cost = best[i] + distortion + lmbda * count * np.log2(n / count)
                if cost < least:
                    least = cost
                    start[j] = i
        best[j], reserve[j] = least, least - before
    edges, k, j = np.empty(m + 1, np.int64), 0, m
    while j > 0:
        edges[k] = j
        k += 1
        j = start[j]
    edges[k] = 0
    return edges[k::-1].copy(), best[m] / n
