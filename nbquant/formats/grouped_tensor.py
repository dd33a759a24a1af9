"""Quantized matrices whose codes and scales are tensors of their own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from nbquant.formats.packed_checkpoint import PackedCheckpoint
from nbquant.formats.packed_tensor import PackedTensor
from nbquant.quantization.blocks.block_codes import BlockCodes
from nbquant.quantization.blocks.block_format import ROW, BlockFormat


@dataclass(frozen=True, eq=False)
class Grouped:
    """A matrix in groups that share a scale.

    Attributes:
        format: Block format of the codes, with the length of a group.
        shape: Rows and columns.
        codes: codes(first, last) reads the codes of some rows.
        parts: parts(first, last) reads scales and other parts of some rows: for each row, in the order of its groups.
        order: Columns group by group; None where groups are neighbouring columns.
        uneven: Group of each column, where groups have different numbers of columns; None otherwise.
        height: Rows that share a scale.
    """

    format: BlockFormat
    shape: tuple[int, int]
    codes: Callable[[int, int], UInt8[np.ndarray, "rows columns"]]
    parts: Callable[[int, int], Mapping[str, np.ndarray]]
    order: Int64[np.ndarray, " columns"] | None = None
    uneven: Int64[np.ndarray, " columns"] | None = None
    height: int = 1

    def tensor(self, name: str, bits: int, others: tuple[str, ...] = ()) -> PackedTensor:
        """Make the record of the matrix; one of uneven groups has no block format."""
        if self.uneven is not None:
            kind = self.format.name.partition("/")[0]
            return PackedTensor(name, self.shape, kind, None, bits, None, self._values, others)
        return PackedTensor(name, self.shape, self.format.name, self.format, bits, self._codes, self._values, others)

    def _codes(self, first: int, last: int) -> BlockCodes:
        found = self._assembled(first, last)
        if self.height == 1:
            return found
        kept = slice(-first % self.height, None, self.height)
        rows = last - first
        parts = (replace(part, values=part.values.reshape(rows, -1)[kept].reshape(-1)) for part in found.parts)
        return replace(found, parts=tuple(parts))

    def _values(self, first: int, last: int) -> Float32[np.ndarray, "rows columns"]:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # scales may be NaN, infinite or 0
            if self.uneven is not None:
                return self._uneven_values(self.uneven, first, last)
            decoded = self.format.decode(self._assembled(first, last))
        if self.order is None:
            return decoded
        return np.take(decoded, np.argsort(self.order), axis=1)

    def _assembled(self, first: int, last: int) -> BlockCodes:
        codes = self.codes(first, last)
        return self.format.assemble(
            codes if self.order is None else np.take(codes, self.order, axis=1), self.parts(first, last)
        )

    def _uneven_values(self, group: np.ndarray, first: int, last: int) -> Float32[np.ndarray, "rows columns"]:
        single = self.format.with_length(1)
        parts = self.parts(first, last)
        each = {name: part.reshape(last - first, -1)[:, group].reshape(-1) for name, part in parts.items()}
        return single.decode(single.assemble(self.codes(first, last), each))


def group_length(checkpoint: PackedCheckpoint, name: str, columns: int, groups: int, said: object = None) -> int:
    """Find the number of columns of a group, the last of which may have fewer.

    Args:
        checkpoint: The checkpoint.
        name: Name of the scales.
        columns: Columns of the matrix.
        groups: Groups of a row.
        said: What the configuration says; needed where groups do not divide the columns.

    Raises:
        ValueError: A number of groups that no length gives, or several lengths and none in the configuration.
    """
    if groups == 1:
        return ROW
    if type(said) is int and said > 0 and -(-columns // said) == groups:
        return said
    if columns % groups == 0:
        return columns // groups
    raise checkpoint.damaged(name, f"has {groups} groups for {columns} columns, which do not divide them")


def with_group_index(grouped: Grouped, group: Int64[np.ndarray, " columns"], groups: int) -> Grouped:
    """Set the group of each column, where these were quantized in another order (act-order).

    Args:
        grouped: The matrix.
        group: Group of each column, from 0 below ``groups``.
        groups: Number of groups.
    """
    columns = len(group)
    order = np.argsort(group, kind="stable")
    counts = np.bincount(group, minlength=groups)
    length = int(counts[0])
    if groups == 1:
        return replace(grouped, format=grouped.format.with_length(ROW))
    if length == 0 or not np.array_equal(group[order], np.arange(columns) // length) or counts[-1] == 0:
        return replace(grouped, uneven=group)
    same = np.array_equal(order, np.arange(columns))
    return replace(grouped, format=grouped.format.with_length(length), order=None if same else order)


def checked_groups(checkpoint: PackedCheckpoint, name: str, columns: int, groups: int) -> Int64[np.ndarray, " columns"]:
    """Read the group of each column.

    Raises:
        ValueError: Another number of columns, or a group out of range.
    """
    found = checkpoint.integers(name, columns)
    if len(found) != columns or found.min() < 0 or found.max() >= groups:
        raise checkpoint.damaged(
            name,
            f"must have the group of each of {columns} columns, from 0 to {groups - 1}, but has {len(found)}, from "
            f"{found.min()} to {found.max()}",
        )
    return found
