"""The hot loops on the CPU, compiled by numba; ``reference`` is their definition.

No loop is parallel inside: numba's thread pools must not be entered from two Python threads at once, which a notebook
with a background worker does. The loops release the GIL, so that callers may split work over threads of their own.
"""

import numpy as np
from numba import njit

from nbquant.kernels.reference import SENSITIVITY_SHIFT, WEIGHT_BINS, WEIGHT_SHIFT, ZERO_BIN

Array = np.ndarray


@njit(cache=True, nogil=True, inline="always")
def _weight_bin(weight: float, bits: int) -> int:
    if weight == 0:
        return ZERO_BIN
    if bits < 0:
        return ((bits ^ 0x7FFFFFFF) >> WEIGHT_SHIFT) + ZERO_BIN
    return (bits >> WEIGHT_SHIFT) + ZERO_BIN + 1


@njit(cache=True, nogil=True, inline="always")
def _sensitivity_row(bits: int) -> int:
    return (bits & 0x7FFFFFFF) >> SENSITIVITY_SHIFT


@njit(cache=True, nogil=True)
def _joint_histogram(weight: Array, bits: Array, sensitivity: Array, rows: Array) -> tuple[Array, Array]:
    lowest, highest = 1 << 10, 0
    for i in range(len(rows)):
        row = _sensitivity_row(rows[i])
        lowest, highest = min(lowest, row), max(highest, row)
    # Two passes: which cells are occupied, then their sums. A sort would cost ten times as much.
    index = np.zeros((highest - lowest + 1) * WEIGHT_BINS, np.int32)
    for i in range(len(rows)):
        index[(_sensitivity_row(rows[i]) - lowest) * WEIGHT_BINS + _weight_bin(weight[i], bits[i])] = 1
    occupied = np.flatnonzero(index)
    for m in range(len(occupied)):
        index[occupied[m]] = m
    sums = np.zeros((len(occupied), 6), np.float64)
    for i in range(len(rows)):
        m = index[(_sensitivity_row(rows[i]) - lowest) * WEIGHT_BINS + _weight_bin(weight[i], bits[i])]
        w, h = np.float64(weight[i]), np.float64(sensitivity[i])
        cell = sums[m]
        cell[0] += 1
        cell[1] += w
        cell[2] += w * w
        cell[3] += h
        cell[4] += h * w
        cell[5] += h * w * w
    return occupied + np.int64(lowest) * WEIGHT_BINS, sums


def joint_histogram(weight: Array, sensitivity: Array) -> tuple[Array, Array]:
    """See :func:`nbquant.kernels.reference.joint_histogram`; float32 or float64 arrays."""
    if len(weight) == 0:
        return np.zeros(0, np.int64), np.zeros((0, 6))
    return _joint_histogram(weight, _float32_bits(weight), sensitivity, _float32_bits(sensitivity))


def _float32_bits(values: Array) -> Array:
    with np.errstate(over="ignore", under="ignore"):
        return values.astype(np.float32, copy=False).view(np.int32)


@njit(cache=True, nogil=True)
def assign(weight: Array, sensitivity: Array, codebook: Array, codeword_length: Array, lmbda: float) -> Array:
    """See :func:`nbquant.kernels.reference.assign`; returns int32."""
    out = np.empty(len(weight), np.int32)
    k = len(codebook)
    if lmbda == 0:
        middle = np.empty(k - 1, np.float64)
        for j in range(k - 1):
            middle[j] = 0.5 * (codebook[j] + codebook[j + 1])
        for i in range(len(weight)):
            low, high = 0, k - 1
            while low < high:
                half = (low + high) >> 1
                if weight[i] <= middle[half]:
                    high = half
                else:
                    low = half + 1
            out[i] = low
        return out
    price = lmbda * codeword_length
    for i in range(len(weight)):
        w, half_h = np.float64(weight[i]), 0.5 * np.float64(sensitivity[i])
        best, least = 0, np.inf
        for j in range(k):
            error = w - codebook[j]
            cost = half_h * error * error + price[j]
            if cost < least:
                best, least = j, cost
        out[i] = best
    return out


@njit(cache=True, nogil=True)
def cluster_sums(weight: Array, sensitivity: Array, assignment: Array, levels: int) -> Array:
    """See :func:`nbquant.kernels.reference.cluster_sums`."""
    sums = np.zeros((levels, 4), np.float64)
    for i in range(len(weight)):
        w, h = np.float64(weight[i]), np.float64(sensitivity[i])
        row = sums[assignment[i]]
        row[0] += 1
        row[1] += w
        row[2] += h
        row[3] += h * w
    return sums


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


@njit(cache=True, nogil=True, inline="always")
def _envelope(h: float, codebook: Array, price: Array, kept: Array, threshold: Array) -> int:
    """Codewords on the lower envelope of ½h(w − c_j)² + price_j, ascending, and the thresholds between them.

    For one h these parabolas differ by straight lines, so every codeword wins on one interval of w or nowhere.
    """
    depth = 0
    if h <= 0:
        kept[0] = np.argmin(price)
        return 1
    for j in range(len(codebook)):
        t = -np.inf
        beaten = False
        while depth > 0:
            top = kept[depth - 1]
            gap = codebook[j] - codebook[top]
            if gap <= 0:
                if price[j] >= price[top]:
                    beaten = True
                    break
                depth -= 1
                continue
            t = 0.5 * (codebook[j] + codebook[top]) + (price[j] - price[top]) / gap / h
            if depth > 1 and t <= threshold[depth - 2]:
                depth -= 1
                continue
            break
        if beaten:
            continue
        if depth > 0:
            threshold[depth - 1] = t
        kept[depth] = j
        depth += 1
    return depth


@njit(cache=True, nogil=True)
def ecsq_sums(
    row_start: Array, row_sensitivity: Array, position: Array, prefix: Array, codebook: Array, price: Array
) -> Array:
    """Sums of the cells that each codeword wins: one row of ``prefix`` columns a codeword."""
    k = len(codebook)
    sums = np.zeros((k, prefix.shape[1]), np.float64)
    kept, threshold = np.empty(k, np.int64), np.empty(k, np.float64)
    for r in range(len(row_sensitivity)):
        first, end = row_start[r], row_start[r + 1]
        depth = _envelope(row_sensitivity[r], codebook, price, kept, threshold)
        i = first
        for d in range(depth):
            low, high = i, end
            if d < depth - 1:
                while low < high:
                    half = (low + high) >> 1
                    if position[half] <= threshold[d]:
                        low = half + 1
                    else:
                        high = half
            else:
                low = end
            if low > i:
                for c in range(prefix.shape[1]):
                    sums[kept[d], c] += prefix[low, c] - prefix[i, c]
            i = low
    return sums


@njit(cache=True, nogil=True)
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
    """Lloyd-like iteration of ECSQ on the cells of a joint histogram.

    Args:
        row_start: First cell of each row, and the number of cells.
        row_sensitivity: Mean h of each row.
        position: Mean w of each cell, ascending within a row.
        prefix: Running sums of n, Σh, Σhw, Σhw² before each cell and after the last.
        codebook: Where to start, ascending.
        codeword_length: ℓ to start with [bit].
        lmbda: λ [loss/bit].
        tolerance: Stops when J falls by less than this share.
        most: Largest number of iterations.

    Returns:
        Codebook, ideal codeword lengths −log2 p, and J per weight after each iteration.

    Source: Chou, Lookabaugh, Gray 1989; Choi et al. 2017, algorithm 1.
    """
    n = prefix[-1, 0] - prefix[0, 0]
    history = np.empty(most, np.float64)
    done = 0
    while done < most:
        sums = ecsq_sums(row_start, row_sensitivity, position, prefix, codebook, lmbda * codeword_length)
        alive = np.flatnonzero(sums[:, 0] > 0)
        new_codebook, new_length = np.empty(len(alive)), np.empty(len(alive))
        cost = 0.0
        for j in range(len(alive)):
            count, s0, s1, s2 = sums[alive[j], 0], sums[alive[j], 1], sums[alive[j], 2], sums[alive[j], 3]
            # A cluster that costs no loss wherever its centre lies keeps the centre it has.
            c = s1 / s0 if s0 > 0 else codebook[alive[j]]
            new_codebook[j] = c
            new_length[j] = -np.log2(count / n)
            cost += 0.5 * max(s2 - 2 * c * s1 + c * c * s0, 0.0) + lmbda * count * new_length[j]
        order = np.argsort(new_codebook)
        codebook, codeword_length = new_codebook[order], new_length[order]
        history[done] = cost / n
        done += 1
        if done > 1 and history[done - 2] - history[done - 1] <= tolerance * history[done - 1]:
            break
    return codebook, codeword_length, history[:done]
