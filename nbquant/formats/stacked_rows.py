"""Integers packed with those of rows far apart: row i of a grid is in packed row i mod n, at the bits of its stack."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float32, UInt8

from nbquant.formats.packed_tensor import PackedTensor
from nbquant.quantization.blocks.block_codes import BlockCodes, Part
from nbquant.quantization.blocks.block_format import ROW, BlockFormat


@dataclass(frozen=True, eq=False)
class StackedRows:
    """A weight as a grid, each row or column of which is a group with a scale.

    Attributes:
        format: Format of a group, of any length.
        shape: Rows and columns of the weight, which is the grid in another shape.
        grid: Rows and columns of the grid.
        data: Packed rows.
        shifts: Lowest bit of the integers of each stack.
        parts: Scale and offset of each group.
        by_row: Whether rows of the grid are groups; else columns are.
    """

    format: BlockFormat
    shape: tuple[int, int]
    grid: tuple[int, int]
    data: np.ndarray
    shifts: tuple[int, ...]
    parts: Mapping[str, Float32[np.ndarray, " groups"]]
    by_row: bool

    def tensor(self, name: str, bits: int, others: tuple[str, ...]) -> PackedTensor:
        """Make the record of the weight."""
        kind = f"{self.format.name}/{self.grid[1 if self.by_row else 0]}"
        found = self.format.with_length(self.grid[1 if self.by_row else 0])
        codes, values = partial(self._codes, kind), self._values
        return PackedTensor(name, self.shape, kind, found, bits, codes, values, others)

    def _rows(self, first: int, last: int, columns: slice = slice(None)) -> UInt8[np.ndarray, "rows columns"]:
        """Unpack some rows of the grid."""
        step, mask = len(self.data), len(self.format.levels) - 1
        pieces = []
        for stack, shift in enumerate(self.shifts):
            low, high = max(first - stack * step, 0), min(last - stack * step, step)
            if low < high:
                pieces.append(((self.data[low:high, columns] >> shift) & mask).astype(np.uint8))
        return np.concatenate(pieces) if pieces else np.empty((0, self.grid[1]), np.uint8)

    def _values(self, first: int, last: int) -> Float32[np.ndarray, "rows columns"]:
        width = self.grid[1]
        start, end = first * self.shape[1], last * self.shape[1]
        top, bottom = start // width, -(-end // width)
        codes = self._rows(top, bottom)
        groups = slice(top, bottom) if self.by_row else slice(None)
        lines = codes if self.by_row else np.ascontiguousarray(codes.T)
        form = self.format.with_length(ROW)
        with np.errstate(over="ignore", invalid="ignore"):  # scales may be NaN or infinite
            decoded = form.decode(form.assemble(lines, {name: part[groups] for name, part in self.parts.items()}))
        flat = (decoded if self.by_row else decoded.T).reshape(-1)
        return np.ascontiguousarray(flat[start - top * width :][: end - start]).reshape(last - first, self.shape[1])

    def _codes(self, kind: str, first: int, last: int) -> BlockCodes:
        """Codes of as large a share of the groups as of the rows: groups need not end where rows do."""
        count = self.grid[0 if self.by_row else 1]
        begin, end = (count * row // self.shape[0] for row in (first, last))
        if self.by_row:
            codes = self._rows(begin, end)
        else:
            codes = np.ascontiguousarray(self._rows(0, self.grid[0], slice(begin, end)).T)
        bits = dict(self.format.part_bits)
        parts = tuple(Part(name, part[begin:end], bits[name]) for name, part in self.parts.items())
        return BlockCodes(kind, codes, parts, np.empty(0, np.uint8), self.format.code_bits)
