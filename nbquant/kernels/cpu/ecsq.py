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
    kept, threshold = np.empty(k, np.int32), np.empty(k, np.float64)
    cheapest = 0
    for j in range(k):
        kept[j] = j
        if price[j] < price[cheapest]:
            cheapest = j
    depth = k
    # As h falls, prices weigh more: a codeword that wins nowhere at one h wins nowhere at a smaller one.
    for r in range(len(row_sensitivity) - 1, -1, -1):
        i, end = row_start[r], row_start[r + 1]
        h = row_sensitivity[r]
        if h > LEAST_H:
            depth = envelope(1 / h, codebook, price, kept, depth, threshold)
        else:
            kept[0], depth = cheapest, 1
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
def _update(
    sums: Array, codebook: Array, n: float, lmbda: float, alive: Array, centre: Array, length: Array
) -> tuple[int, float, bool]:
    """Non-empty clusters with their centres, ascending, and ideal lengths.

    Returns:
        Their number, J per weight, and whether they are in the order of the codebook.
    """
    cost, ascending, k = 0.0, True, 0
    for j in range(len(sums)):
        count, s0, s1, s2 = sums[j, 0], sums[j, 1], sums[j, 2], sums[j, 3]
        if not count > 0:
            continue
        # A cluster of zero sensitivity keeps its centre.
        c = s1 / s0 if s0 > 0 else codebook[j]
        bits = -np.log2(count / n)
        cost += 0.5 * max(s2 - 2 * c * s1 + c * c * s0, 0.0) + lmbda * count * bits
        at = k
        while at > 0 and c < centre[at - 1]:
            alive[at], centre[at], length[at] = alive[at - 1], centre[at - 1], length[at - 1]
            at -= 1
        ascending &= at == k
        alive[at], centre[at], length[at] = j, c, bits
        k += 1
    return k, cost / n, ascending


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
    n = prefix[len(prefix) - 1, 0] - prefix[0, 0]
    k = len(codebook)
    history = np.empty(most, np.float64)
    done, pace = 0, 0
    bound = np.empty((len(row_sensitivity), k), np.int32)
    for r in range(len(row_sensitivity)):
        for j in range(k):
            bound[r, j] = row_start[r]
    price, alive = np.empty(k, np.float64), np.empty(k, np.int64)
    tried_codebook, tried_length = codebook, codeword_length
    for _ in range(most):
        for j in range(len(tried_length)):
            price[j] = lmbda * tried_length[j]
        sums = _sums(row_start, row_sensitivity, position, prefix, tried_codebook, price, bound)
        new_codebook, new_length = np.empty(len(codebook), np.float64), np.empty(len(codebook), np.float64)
        k, cost, ascending = _update(sums, codebook, n, lmbda, alive, new_codebook, new_length)
        if done > 0 and cost > history[done - 1]:
            if pace == 0:  # due to rounding
                break
            tried_codebook, tried_length, pace = codebook, codeword_length, 0
            continue
        slow = done > 0 and history[done - 1] - cost <= tolerance * cost
        history[done] = cost
        done += 1
        if not ascending or k < len(codebook):
            bound = _columns(bound, alive, k)
        previous_codebook, previous_length = codebook, codeword_length
        codebook, codeword_length = new_codebook[:k], new_length[:k]
        tried_codebook, tried_length = codebook, codeword_length
        if slow and pace == 0:
            break
        if slow or done == 1:  # the first step has no direction
            pace = 0
            continue
        pace += 1
        push = pace / (pace + 3)
        carried, longer, rising = np.empty(k, np.float64), np.empty(k, np.float64), True
        for j in range(k):
            carried[j] = codebook[j] + push * (codebook[j] - previous_codebook[alive[j]])
            longer[j] = codeword_length[j] + push * (codeword_length[j] - previous_length[alive[j]])
            rising &= j == 0 or carried[j] - carried[j - 1] >= 0
        if rising:
            tried_codebook, tried_length = carried, longer
        else:
            pace = 0
    return codebook, codeword_length, history[:done]


@compiled()
def _columns(bound: Array, chosen: Array, count: int) -> Array:
    """Copy some columns."""
    found = np.empty((len(bound), count), np.int32)
    for r in range(len(bound)):
        for j in range(count):
            found[r, j] = bound[r, chosen[j]]
    return found


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
    intervals, j = 0, m
    while j > 0:
        intervals, j = intervals + 1, start[j]
    edges, j = np.empty(intervals + 1, np.int64), m
    for k in range(intervals, -1, -1):
        edges[k] = j
        j = start[j]
    return edges, best[m] / n
