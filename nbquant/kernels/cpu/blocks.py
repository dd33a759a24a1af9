"""Loops between the indices of a block of weights and the symbols that are written for it.

What they are given may be damaged and is checked here, by status; :mod:`nbquant.storage.blocks` words the errors.
"""

import numpy as np

from nbquant.kernels.compiled import compiled

Array = np.ndarray

OK, OUT_OF_RANGE, OTHER_COUNT = 0, 1, 2


@compiled()
def split(assignment: Array, span: int, gaps: Array, symbols: Array) -> bool:
    """Take a pruned block apart, into gaps with their fillers and the indices of what is not pruned.

    Args:
        assignment: Indices; below 0 where a weight is pruned.
        span: Zeros that a filler, which is written as ``span``, stands for; 0 if gaps are not asked for.
        gaps: Receives symbols of gaps.
        symbols: Receives indices.

    Returns:
        Whether they filled ``gaps`` and ``symbols`` exactly.
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
    """Put values where gaps lead to; the inverse of :func:`split`.

    Args:
        gaps: Symbols of gaps, ``span`` for a filler.
        span: Zeros that a filler stands for.
        symbols: Index of each weight, all below ``len(values)``.
        values: What an index stands for.
        out: Receives the values; holds what stands for a pruned weight.

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
    """The value of each index, all of them below ``len(values)``."""
    for i in range(len(symbols)):
        out[i] = values[symbols[i]]
