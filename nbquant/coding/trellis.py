"""Dependent quantization: two quantizers, switched by a trellis of 8 states.

A weight is m steps. In the states 0 to 3 the integers m = 2k are available, in 4 to 7 m = 2k − sign(k): the odd ones
and zero. The level k is coded, which has about half as many values as m; its parity determines
the next state, so that a path through the trellis achieves the packing of a finer grid's best subsets. A matrix is
processed down each column, from state 0 at its top.

Source: Marcellin and Fischer 1990 (trellis-coded quantization); Ungerboeck 1982 (the code of 8 states); the union of
quantizers as in ITU-T H.266 and ISO/IEC 15938-17.
"""

import numpy as np
from jaxtyping import Int, UInt8

from nbquant.kernels.cpu import trellis as kernel
from nbquant.kernels.reference import TRANSITION

__all__ = ["STATES", "TRANSITION", "integers_of", "levels_of", "states_of"]

STATES = 8


def levels_of(
    integers: Int[np.ndarray, "..."], rows: int, cols: int, state: UInt8[np.ndarray, " cols"] | None = None
) -> Int[np.ndarray, "rows cols"]:
    """Compute the levels k of the integers m on a path through the trellis.

    Args:
        integers: Integers m, row by row, of any shape with rows · cols entries.
        rows: Rows of the matrix.
        cols: Its columns.
        state: Initial states of the columns, for a matrix in several blocks of rows; replaced by the final
            states. None is state 0.

    Returns:
        Levels, of 32 bits if the integers are, otherwise of 64.

    Raises:
        ValueError: Integers that are on no path: odd ones in the states 0 to 3, even non-zero ones in the others; or
            another number of them.
    """
    matrix, state = _matrix(integers, "integers", rows, cols), _begin(state, cols)
    out = np.empty_like(matrix)
    wrong = kernel.levels(matrix, TRANSITION, state, out)
    if wrong:
        raise ValueError(
            f"the integers must be on a path through the trellis, but {wrong:,} of {matrix.size:,} are not of the "
            "quantizer in force: take them from viterbi() for a matrix of the same rows and columns"
        )
    return out


def integers_of(
    level: Int[np.ndarray, "..."], rows: int, cols: int, state: UInt8[np.ndarray, " cols"] | None = None
) -> Int[np.ndarray, "rows cols"]:
    """Compute the integers m of any levels k: the inverse of :func:`levels_of`, with the same arguments.

    Integers beyond 32 bits need levels of 64.

    Raises:
        ValueError: Another number of levels than rows · cols.
    """
    matrix, state = _matrix(level, "levels", rows, cols), _begin(state, cols)
    out = np.empty_like(matrix)
    kernel.integers(matrix, TRANSITION, state, out)
    return out


def states_of(
    level: Int[np.ndarray, "..."], rows: int, cols: int, state: UInt8[np.ndarray, " cols"] | None = None
) -> UInt8[np.ndarray, "rows cols"]:
    """Compute the state before each level k: below 4 the even integers are available, from 4 on the odd ones and zero.

    Raises:
        ValueError: Another number of levels than rows · cols.
    """
    matrix, state = _matrix(level, "levels", rows, cols), _begin(state, cols)
    out = np.empty(matrix.shape, np.uint8)
    kernel.states(matrix, TRANSITION, state, out)
    return out


def _matrix(values: Int[np.ndarray, "..."], name: str, rows: int, cols: int) -> Int[np.ndarray, "rows cols"]:
    if values.size != rows * cols:
        raise ValueError(
            f"{name} must be {rows} rows of {cols} columns, so {rows * cols:,}, but got {values.size:,}: "
            "pass the shape of their matrix"
        )
    kind = np.int32 if values.dtype == np.int32 else np.int64
    return np.ascontiguousarray(values, kind).reshape(rows, cols)


def _begin(state: UInt8[np.ndarray, " cols"] | None, cols: int) -> UInt8[np.ndarray, " cols"]:
    return np.zeros(cols, np.uint8) if state is None else state
