"""Entropy-constrained scalar quantization on the cells of a joint histogram."""

import numpy as np
from numba import njit

Array = np.ndarray


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
