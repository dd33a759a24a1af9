"""Matrices of small integers that stand for indices into a codebook, as adaptive coding takes them, block by block."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from jaxtyping import Float, Int, Int64

from nbquant.coding import positions, trellis
from nbquant.coding.code import Code
from nbquant.coding.context import CONTEXT

MOST_SPAN = 1 << 24  # integers from the first to the last of an alphabet
PRUNED = -1


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a tensor: its first axis and the others; of one axis, a single column.

    A column is where weights depend on each other, so that a vector must lie along one.
    """
    rows = shape[0] if shape else 1
    return rows, prod(shape[1:])


def rows_of_block(cols: int) -> int:
    """Rows of a matrix that are coded together: as many as fit into 2²² entries, at least one."""
    return max(1, positions.BLOCK // max(cols, 1))


def block_shapes(shape: Sequence[int]) -> list[tuple[int, int]]:
    """Rows and columns of each block of a tensor: as many rows as fit into 2²² entries; a longer row in pieces."""
    rows, cols = matrix_shape(shape)
    if not rows * cols:
        return []
    most = positions.BLOCK
    if cols > most:
        return [(1, min(most, cols - begin)) for _ in range(rows) for begin in range(0, cols, most)]
    step = rows_of_block(cols)
    return [(min(step, rows - begin), cols) for begin in range(0, rows, step)]


@dataclass(frozen=True, eq=False)
class Alphabet:
    """The integers that stand for indices.

    Attributes:
        integer: That of each index j, ascending.
        pruned: Whether 0 says that a weight was pruned, index −1; then no other index has it.
        dependent: Whether a tensor's integers are on paths through the trellis, so that their levels are coded.

    Raises:
        ValueError: Integers that do not ascend, pass the span that is supported, or take the pruned weights' 0.
    """

    integer: Int64[np.ndarray, " k"]
    pruned: bool
    dependent: bool = False

    def __post_init__(self) -> None:
        if (np.diff(self.integer) <= 0).any():
            raise ValueError("integers must ascend, but do not: sort the codebook.")
        if len(self.integer) and int(self.integer[-1]) - int(self.integer[0]) >= MOST_SPAN:
            raise ValueError(
                f"integers must span less than {MOST_SPAN:,}, but go from {self.integer[0]:,} to {self.integer[-1]:,}: "
                "use larger steps."
            )
        if self.pruned and (self.integer == 0).any():
            raise ValueError("0 must stand for pruned weights alone, but a value has it.")

    @staticmethod
    def by_rank(value: Float[np.ndarray, " k"], pruned: bool) -> "Alphabet":
        """Integers of values that are no grid: how many values away from that nearest zero, or from the pruned ones.

        Args:
            value: Values, ascending and finite.
            pruned: See above.
        """
        rank = np.arange(len(value))
        if pruned:
            below = int((value < 0).sum())
            return Alphabet(rank - below + (rank >= below), True)
        return Alphabet(rank - (int(np.abs(value).argmin()) if len(value) else 0), False)

    def encode(self, index: Int[np.ndarray, " n"], rows: int, cols: int, code: Code = CONTEXT) -> bytes:
        """The stream of a block.

        Args:
            index: Its indices, row by row; −1 where a weight is pruned.
            rows: Rows of the block.
            cols: Its columns.
            code: An adaptive code.

        Raises:
            ValueError: Indices that are not there; integers that are on no path through the trellis.
        """
        low, high = (int(index.min()), int(index.max())) if index.size else (0, -1)
        least = PRUNED if self.pruned else 0
        if low < least or high >= len(self.integer):
            raise ValueError(f"indices must be {least} to {len(self.integer) - 1}, but go from {low} to {high}.")
        integer = np.append(self.integer, 0)[index].reshape(rows, cols)  # −1 is the last
        level = trellis.levels_of(integer, rows, cols) if self.dependent else integer
        assert code.encode is not None
        return code.encode(level, self.dependent)

    def decode(self, data: bytes, rows: int, cols: int, code: Code = CONTEXT) -> Int[np.ndarray, " n"]:
        """Indices of a stream, with the arguments of :meth:`encode`.

        Raises:
            ValueError: A stream that it does not write.
        """
        assert code.decode is not None
        level = code.decode(data, rows, cols, self.dependent)
        integer = trellis.integers_of(level, rows, cols) if self.dependent else level
        flat = integer.reshape(-1)
        first = int(self.integer[0]) if len(self.integer) else 0
        last = int(self.integer[-1]) if len(self.integer) else -1
        pruned = np.zeros(0, np.int64)
        if self.pruned and not first <= 0 <= last:  # 0 may be far from them
            pruned = np.flatnonzero(flat == 0)
            flat = flat.copy()
            flat[pruned] = first
        if flat.size > len(pruned) and not (first <= flat.min() and flat.max() <= last):
            raise ValueError(f"levels must be those of {first} to {last}, but are not.")
        unused = -2
        index = np.full(max(last - first + 1, 1), unused, np.int32)
        index[self.integer - first] = np.arange(len(self.integer))
        if self.pruned and first <= 0 <= last:
            index[-first] = PRUNED
        found = index[flat - first]
        found[pruned] = PRUNED
        if (found == unused).any():
            raise ValueError("levels must be of values in the codebook, but some are of none.")
        return found
