"""Kernels between the indices of a block of weights and its coded symbols (gaps, fillers and values).

Inputs may be damaged and are checked here, by status; :mod:`nbquant.storage.blocks` makes the error messages.
"""

import numpy as np

from nbquant.kernels.compiled import compiled

Array = np.ndarray

OK, OUT_OF_RANGE, OTHER_COUNT = 0, 1, 2


@compiled()
def split(assignment: Array, span: int, gaps: Array, symbols: Array) -> bool:
    """Split a pruned block into gaps with their fillers and the indices of the other weights.

    Args:
        assignment: Indices; below 0 where a weight is pruned.
        span: Number of zeros of a filler, which is written as ``span``; 0 if gaps are not requested.
        gaps: Output: symbols of gaps.
        symbols: Output: indices.

    Returns:
        Whether ``gaps`` and ``symbols`` were filled exactly.
    """
    g, s, run = 0, 0, 0
    for i in range(len(assignment)):
        if assignment[i] < 0:
            run += 1
            continue
        if s == len(symbols):
            return False
        symbols[s] = assignment[i]
        s += 1
        if span == 0:
            continue
        while run >= span:
            if g == len(gaps):
                return False
            gaps[g] = span
            g += 1
            run -= span
        if g == len(gaps):
            return False
        gaps[g] = run
        g += 1
        run = 0
    return g == len(gaps) and s == len(symbols)


@compiled()
def place(gaps: Array, span: int, symbols: Array, values: Array, out: Array) -> int:
    """Put values at the positions given by gaps; the inverse of :func:`split`.

    Args:
        gaps: Symbols of gaps, ``span`` for a filler.
        span: Number of zeros of a filler.
        symbols: Index of each weight, all below ``len(values)``.
        values: Value of each index.
        out: Output: the values; holds the value of pruned weights on entry.

    Returns:
        Status.
    """
    at, s = np.int64(0), 0
    ends_in_weight = True
    for i in range(len(gaps)):
        gap = np.int64(gaps[i])
        at += gap
        if gap == span:
            ends_in_weight = False
            if at > len(out):
                return OUT_OF_RANGE
            continue
        if at >= len(out):
            return OUT_OF_RANGE
        if s == len(symbols):
            return OTHER_COUNT
        out[at] = values[symbols[s]]
        ends_in_weight = True
        at += 1
        s += 1
    return OK if s == len(symbols) and ends_in_weight else OTHER_COUNT


@compiled()
def look_up(symbols: Array, values: Array, out: Array) -> None:
    """Look up the value of each index, all of them below ``len(values)``."""
    for i in range(len(symbols)):
        out[i] = values[symbols[i]]
