"""Typed columns of the JSON header: each value is checked once, as it is read."""

import reprlib
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

from nbquant.storage.errors import CorruptFileError

MOST = 1 << 62
MOST_AXES = 64

Table = dict[str, Any]


def column(values: Sequence[Any]) -> Any:
    """Write a column: one value if all rows have it, else a list."""
    return values[0] if values and all(value == values[0] for value in values) else list(values)


def damaged(reason: str) -> CorruptFileError:
    """Make the error for a damaged header."""
    return CorruptFileError("header", reason + ".")


def require(holds: bool, required: str, came: object) -> None:
    """Reject a header in which a requirement does not hold.

    Raises:
        CorruptFileError: Says what is required and what came.
    """
    if not holds:
        raise damaged(f"{required}, but {reprlib.repr(came)} came: get or write the file again")


def depth_of(value: Any) -> int:
    """Depth of nested objects and lists, computed without recursion."""
    depth, level = 0, [value]
    while level:
        nested = [v for v in level if isinstance(v, dict | list)]
        level = [inner for v in nested for inner in (v.values() if isinstance(v, dict) else v)]
        depth += bool(nested)
    return depth


def table_of(header: Mapping[str, Any], name: str) -> Table:
    """Read a table; empty if it is missing."""
    table = header.get(name, {})
    require(isinstance(table, dict), f"{name!r} must be an object", table)
    return table


def rows_of(table: Table, key: str) -> int:
    """Count the rows, in a column that is always a list."""
    column = table.get(key, [])
    require(isinstance(column, list), f"{key!r} must be a list", column)
    require(bool(column) or not table, f"{key!r} must have a row", column)
    return len(column)


def values_of(table: Table, key: str, rows: int, check: Callable[[Any], bool], kind: str) -> list[Any]:
    """Read a column as one value per row."""
    if not rows:
        return []
    require(key in table, f"the column {key!r} must be there", sorted(table))
    column = table[key]
    if not isinstance(column, list):
        require(check(column), f"{key!r} must be {kind}", column)
        return [column] * rows
    require(len(column) == rows, f"{key!r} must be {rows} values or one for all", len(column))
    for value in column:
        require(check(value), f"{key!r} must be {kind}", value)
    return column


def is_count(value: Any) -> bool:
    """Whether a value is a whole number from 0 to 2⁶²."""
    return type(value) is int and 0 <= value <= MOST


def is_name(value: Any) -> bool:
    """Whether a value is a text."""
    return type(value) is str


def is_shape(value: Any) -> bool:
    """Whether a value is a list of whole numbers whose product is at most 2⁶²."""
    if not isinstance(value, list) or len(value) > MOST_AXES or not all(map(is_count, value)):
        return False
    return prod(max(axis, 1) for axis in value) <= MOST  # zeros do not compensate an overflow


def names_of(table: Table, rows: int) -> list[str]:
    """Read the column of names."""
    return values_of(table, "name", rows, is_name, "names")


def shapes_of(table: Table, rows: int) -> list[tuple[int, ...]]:
    """Read the column of shapes."""
    column = table.get("shape", [])
    require(isinstance(column, list) and len(column) == rows, f"'shape' must be a list of {rows}", column)
    return [tuple(shape) for shape in values_of(table, "shape", rows, is_shape, "whole numbers of a shape")]


def dtypes_of(table: Table, rows: int, allowed: Sequence[str]) -> list[str]:
    """Read the column of types."""
    return values_of(table, "dtype", rows, lambda v: type(v) is str and v in allowed, f"one of {', '.join(allowed)}")
