"""The walk through the trellis, compiled: integers to the levels that are coded, and back."""

import numpy as np
from jaxtyping import Int64, UInt8

from nbquant.kernels.compiled import compiled


@compiled()
def levels(
    integers: Int64[np.ndarray, "rows cols"],
    transition: UInt8[np.ndarray, "8 2"],
    state: UInt8[np.ndarray, " cols"],
    out: Int64[np.ndarray, "rows cols"],
) -> int:
    """Levels k of the integers m; returns how many of them no path has, which are rounded towards zero.

    Rows outside and columns within, in the order of memory: a row of states is small.
    """
    wrong = 0
    for i in range(integers.shape[0]):
        for j in range(integers.shape[1]):
            m, s = integers[i, j], state[j]
            if s < 4:
                wrong += m & 1
                k = m >> 1 if m >= 0 else -(-m >> 1)
            else:
                wrong += m != 0 and m & 1 == 0
                k = (m + 1) >> 1 if m >= 0 else -((1 - m) >> 1)
            out[i, j] = k
            state[j] = transition[s, k & 1]
    return wrong


@compiled()
def integers(
    level: Int64[np.ndarray, "rows cols"],
    transition: UInt8[np.ndarray, "8 2"],
    state: UInt8[np.ndarray, " cols"],
    out: Int64[np.ndarray, "rows cols"],
) -> None:
    """Integers m of the levels k."""
    for i in range(level.shape[0]):
        for j in range(level.shape[1]):
            k, s = level[i, j], state[j]
            out[i, j] = 2 * k if s < 4 else 2 * k - (k > 0) + (k < 0)
            state[j] = transition[s, k & 1]


@compiled()
def states(
    level: Int64[np.ndarray, "rows cols"],
    transition: UInt8[np.ndarray, "8 2"],
    state: UInt8[np.ndarray, " cols"],
    out: UInt8[np.ndarray, "rows cols"],
) -> None:
    """State before each of the levels k."""
    for i in range(level.shape[0]):
        for j in range(level.shape[1]):
            out[i, j] = state[j]
            state[j] = transition[state[j], level[i, j] & 1]
