"""Mapping between codebook indices and the integer matrices of adaptive codes, block by block."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from jaxtyping import Float, Int, Int64

from nbquant.coding import positions, trellis
from nbquant.coding.code import Code
from nbquant.coding.context import CONTEXT

MOST_SPAN = 1 << 24  # largest range of an alphabet's integers
PRUNED = -1


def _fits(least: int, most: int) -> bool:
    """Whether integers from ``least`` to ``most`` have 32 bits."""
    return least > -(1 << 31) and most < 1 << 31


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Shape of a tensor as a matrix: rows are its first axis, columns the others; a vector is a single column.

    Dependencies between weights run along columns, so that a vector must be one.
    """
    rows = shape[0] if shape else 1
    return rows, prod(shape[1:])


def rows_of_block(cols: int) -> int:
    """Count the rows of a matrix that are coded together: as many as fit into 2²² entries, at least one."""
    return max(1, positions.BLOCK_ENTRIES // max(cols, 1))


def block_shapes(shape: Sequence[int]) -> list[tuple[int, int]]:
    """Split a tensor into blocks of rows by columns: as many rows as fit into 2²² entries; longer rows are cut."""
    rows, cols = matrix_shape(shape)
    if not rows * cols:
        return []
    most = positions.BLOCK_ENTRIES
    if cols > most:
        return [(1, min(most, cols - begin)) for _ in range(rows) for begin in range(0, cols, most)]
    step = rows_of_block(cols)
    return [(min(step, rows - begin), cols) for begin in range(0, rows, step)]


@dataclass(frozen=True, eq=False)
class Alphabet:
    """The integers that represent codebook indices.

    Attributes:
        integer: Integer of each index j, ascending.
        pruned: Whether 0 represents pruned weights (index −1); then no index has it.
        dependent: Whether a tensor's integers are on trellis paths, so that their levels are coded.

    Raises:
        ValueError: Integers that do not ascend, exceed the supported range, or use 0 although it means pruned.
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
            raise ValueError("0 must represent pruned weights only, but a value has it.")

    @staticmethod
    def by_rank(value: Float[np.ndarray, " k"], pruned: bool) -> "Alphabet":
        """Number the values of an irregular codebook by rank, from the value nearest zero, or from the pruned ones.

        Args:
            value: Values, ascending and finite.
            pruned: As in the class.
        """
        rank = np.arange(len(value))
        if pruned:
            below = int((value < 0).sum())
            return Alphabet(rank - below + (rank >= below), True)
        return Alphabet(rank - (int(np.abs(value).argmin()) if len(value) else 0), False)

    def encode(self, index: Int[np.ndarray, " n"], rows: int, cols: int, code: Code = CONTEXT) -> bytes:
        """Encode a block of indices.

        Args:
            index: Indices, row by row; −1 for pruned weights.
            rows: Rows of the block.
            cols: Columns of the block.
            code: An adaptive code.

        Raises:
            ValueError: Indices out of range; integers that are on no path through the trellis.
        """
        low, high = (int(index.min()), int(index.max())) if index.size else (0, -1)
        least = PRUNED if self.pruned else 0
        if low < least or high >= len(self.integer):
            raise ValueError(f"indices must be {least} to {len(self.integer) - 1}, but go from {low} to {high}.")
        values = np.append(self.integer, 0)
        if _fits(int(values.min()), int(values.max())):
            values = values.astype(np.int32)
        integer = values.take(index, mode="wrap").reshape(rows, cols)  # −1 is the last entry
        level = trellis.levels_of(integer, rows, cols) if self.dependent else integer
        assert code.encode is not None
        return code.encode(level, self.dependent)

    def decode(self, data: bytes, rows: int, cols: int, code: Code = CONTEXT) -> Int[np.ndarray, " n"]:
        """Decode the indices of a stream, with the arguments of :meth:`encode`.

        Raises:
            ValueError: A stream that :meth:`encode` cannot have written.
        """
        assert code.decode is not None
        level = code.decode(data, rows, cols, self.dependent)
        if self.dependent and not _fits(2 * int(level.min(initial=0)), 2 * int(level.max(initial=0))):
            level = level.astype(np.int64)
        integer = trellis.integers_of(level, rows, cols) if self.dependent else level
        flat = integer.reshape(-1)
        first = int(self.integer[0]) if len(self.integer) else 0
        last = int(self.integer[-1]) if len(self.integer) else -1
        if not _fits(first, last):
            flat = flat.astype(np.int64)
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
        found: Int[np.ndarray, " n"] = index.take(flat - first, mode="clip")
        found[pruned] = PRUNED
        if int(found.min(initial=0)) == unused:
            raise ValueError("levels must be of values in the codebook, but some are not.")
        return found
