"""Serialization of the layout as JSON header, and its strict validation on reading.

A table is an object with a key per column. A column is a list, or one value for all rows.
"""

import json
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from nbquant.coding import codes
from nbquant.coding.code import Code
from nbquant.coding.levels import MOST_SPAN
from nbquant.coding.positions import MAX_SPAN
from nbquant.storage.dtypes import DTYPES, QUANTIZED, entry_bytes
from nbquant.storage.errors import CorruptFileError
from nbquant.storage.layout import (
    DEFAULT_CODING,
    Layout,
    QuantizedEntry,
    RawEntry,
    StoredBlock,
    StoredCodebook,
    StoredLattice,
    StoredTable,
    block_entries,
)
from nbquant.storage.metadata import MOST_METADATA, is_metadata
from nbquant.tensorfile import parse_json

MOST = 1 << 62
MOST_AXES = 64
RESERVED = "__metadata__"  # not allowed as a tensor name in safetensors files
MOST_DEPTH = 16

Table = dict[str, Any]


def write_header(layout: Layout) -> bytes:
    """Serialize a layout.

    Raises:
        ValueError: A name or recipe that cannot be written.
    """
    if RESERVED in (*layout.entries, *layout.tied):
        raise ValueError(f"a tensor must not be named {RESERVED!r}, as in safetensors files: rename it.")
    header: dict[str, Any] = {} if layout.coding == DEFAULT_CODING else {"coding": layout.coding}
    with_positions = layout.pruned and not layout.adaptive
    blocks = [block for entry in layout.quantized for block in entry.blocks]
    if layout.quantized:
        header["quantized"] = {
            "name": [entry.name for entry in layout.quantized],
            "shape": [entry.shape for entry in layout.quantized],
            "dtype": _column([entry.dtype for entry in layout.quantized]),
            "codebook": _column([entry.codebook for entry in layout.quantized]),
        }
        header["blocks"] = {"payload": _column([block.payload for block in blocks])}
    if with_positions:
        header["quantized"]["table"] = _column([entry.table for entry in layout.quantized])
    if layout.pruned:
        for key in ("weights", "positions", "fillers") if with_positions else ("weights",):
            header["blocks"][key] = _column([getattr(block, key) for block in blocks])
    if layout.codebooks:
        header["codebooks"] = {
            "name": [book.name for book in layout.codebooks],
            "dtype": _column([book.dtype for book in layout.codebooks]),
            "levels": _column([book.levels for book in layout.codebooks]),
        }
        if not layout.adaptive:
            header["codebooks"]["bits"] = _column([book.bits for book in layout.codebooks])
        lattices = [book.lattice for book in layout.codebooks]
        if any(lattices):
            for key in ("first", "span", "dependent"):
                header["codebooks"][key] = _column([getattr(lattice, key, None) for lattice in lattices])
    if layout.tables:
        header["tables"] = {
            "span": [table.span for table in layout.tables],
            "bits": _column([table.bits for table in layout.tables]),
        }
    if layout.raw:
        header["raw"] = {
            "name": [entry.name for entry in layout.raw],
            "shape": [entry.shape for entry in layout.raw],
            "dtype": _column([entry.dtype for entry in layout.raw]),
        }
    if layout.tied:
        header["tied"] = dict(layout.tied)
    if layout.metadata:
        header["metadata"] = dict(layout.metadata)
    header["recipe"] = layout.recipe
    return json.dumps(header, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def read_header(raw: bytes, file_size: int, most_restored: int, major: int = 1) -> Layout:
    """Parse and validate a header.

    Args:
        raw: The header.
        file_size: Size of the whole file [byte].
        most_restored: Limit on the bytes of all restored tensors.
        major: Major version of the file.

    Raises:
        CorruptFileError: A header that violates FORMAT.md, or belongs to a file of another size.
    """
    try:
        header = parse_json(raw, "it")
        json.dumps(header, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise _damaged(f"JSON without NaN or broken characters is required, but {error}") from None
    _require(_depth(header) <= MOST_DEPTH, f"at most {MOST_DEPTH} nested objects and lists are allowed", header)
    coding = header.get("coding", DEFAULT_CODING)
    known = codes.stored_names(major)
    _require(
        isinstance(coding, str) and coding in known, f"coding must be {' or '.join(known)} in version {major}", coding
    )
    kinds = codes.stored_as(coding)
    adaptive = kinds[0].adaptive
    codebooks = _codebooks(_table(header, "codebooks"), file_size, kinds)
    tables = _tables(_table(header, "tables"))
    quantized = _table(header, "quantized")
    raw_entries = _raw(_table(header, "raw"))
    blocks = _table(header, "blocks")
    pruned = "table" in quantized if not adaptive else "weights" in blocks
    bare = _quantized(quantized, pruned and not adaptive, codebooks, tables)
    entries: tuple[QuantizedEntry | RawEntry, ...] = (*bare, *raw_entries)
    restored = sum(prod(entry.shape) * entry_bytes(entry.dtype) for entry in entries)
    if restored > most_restored:
        raise _damaged(
            f"tensors of at most {most_restored} bytes are expected of a file of {file_size}, but they take "
            f"{restored}: if you trust it and have the memory, load it with max_bytes={restored}"
        )
    whole = _with_blocks(bare, blocks, pruned, codebooks, tables, coding)
    recipe = header.get("recipe", {})
    _require(isinstance(recipe, dict), "the recipe must be an object", recipe)
    metadata = header.get("metadata", {})
    _require(is_metadata(metadata), f"metadata must be an object of texts of at most {MOST_METADATA:,} bytes", metadata)
    layout = Layout(
        codebooks,
        tables,
        whole,
        raw_entries,
        _tied(header, [entry.name for entry in entries]),
        pruned,
        coding,
        recipe,
        metadata,
        len(raw),
    )
    if layout.size != file_size:
        raise _damaged(
            f"{layout.size} bytes are in a file with this header, but it has {file_size}: it is cut, or something "
            "was added; get it again"
        )
    return layout


def _column(values: Sequence[Any]) -> Any:
    return values[0] if values and all(value == values[0] for value in values) else list(values)


def _damaged(reason: str) -> CorruptFileError:
    return CorruptFileError("header", reason + ".")


def _require(holds: bool, required: str, came: object) -> None:
    if not holds:
        raise _damaged(f"{required}, but {reprlib.repr(came)} came: get or write the file again")


def _depth(value: Any) -> int:
    """Depth of nested objects and lists, computed without recursion."""
    depth, level = 0, [value]
    while level:
        nested = [v for v in level if isinstance(v, dict | list)]
        level = [inner for v in nested for inner in (v.values() if isinstance(v, dict) else v)]
        depth += bool(nested)
    return depth


def _table(header: Mapping[str, Any], name: str) -> Table:
    table = header.get(name, {})
    _require(isinstance(table, dict), f"{name!r} must be an object", table)
    return table


def _rows(table: Table, key: str) -> int:
    """Number of rows: that of a column that is always a list."""
    column = table.get(key, [])
    _require(isinstance(column, list), f"{key!r} must be a list", column)
    _require(bool(column) or not table, f"{key!r} must have a row", column)
    return len(column)


def _values(table: Table, key: str, rows: int, check: Callable[[Any], bool], kind: str) -> list[Any]:
    """A column with one value per row."""
    if not rows:
        return []
    _require(key in table, f"the column {key!r} must be there", sorted(table))
    column = table[key]
    if not isinstance(column, list):
        _require(check(column), f"{key!r} must be {kind}", column)
        return [column] * rows
    _require(len(column) == rows, f"{key!r} must be {rows} values or one for all", len(column))
    for value in column:
        _require(check(value), f"{key!r} must be {kind}", value)
    return column


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MOST


def _is_name(value: Any) -> bool:
    return type(value) is str


def _is_shape(value: Any) -> bool:
    if not isinstance(value, list) or len(value) > MOST_AXES or not all(map(_is_count, value)):
        return False
    return prod(max(axis, 1) for axis in value) <= MOST  # zeros do not compensate an overflow


def _names(table: Table, rows: int) -> list[str]:
    return _values(table, "name", rows, _is_name, "names")


def _shapes(table: Table, rows: int) -> list[tuple[int, ...]]:
    column = table.get("shape", [])
    _require(isinstance(column, list) and len(column) == rows, f"'shape' must be a list of {rows}", column)
    return [tuple(shape) for shape in _values(table, "shape", rows, _is_shape, "whole numbers of a shape")]


def _dtypes(table: Table, rows: int, allowed: Sequence[str]) -> list[str]:
    return _values(table, "dtype", rows, lambda v: type(v) is str and v in allowed, f"one of {', '.join(allowed)}")


def _codebooks(table: Table, file_size: int, kinds: Sequence[Code]) -> tuple[StoredCodebook, ...]:
    rows = _rows(table, "name")
    names = _names(table, rows)
    _require(len(set(names)) == rows, "each codebook must have a name of its own", names)
    levels = _values(table, "levels", rows, lambda v: _is_count(v) and v <= file_size, "levels that fit into the file")
    dtypes = _dtypes(table, rows, QUANTIZED)
    if kinds[0].adaptive:
        lattices = _lattices(table, rows, file_size)
        books = tuple(map(StoredCodebook, names, dtypes, levels, [None] * rows, lattices))
        for book in books:
            fits = book.lattice is None or book.levels <= book.lattice.span
            _require(fits, f"a span of at least its {book.levels} levels", book.lattice)
        return books
    tabled, bare = (any(code.has_table == has for code in kinds) for has in (True, False))
    needed = " or ".join(["bits of a code table"] * tabled + ["null"] * bare)
    bits = _values(table, "bits", rows, lambda v: (_is_count(v) and tabled) or (v is None and bare), needed)
    books = tuple(map(StoredCodebook, names, dtypes, levels, bits))
    for book in books:
        _require(
            book.bits is None or (book.bits >= book.levels if book.levels else not book.bits),
            f"a code table of {book.levels} levels takes so many bits or more, and none for none",
            book.bits,
        )
    return books


def _lattices(table: Table, rows: int, file_size: int) -> list[StoredLattice | None]:
    if "first" not in table:
        return [None] * rows
    most = min(MOST_SPAN, 8 * file_size)  # each takes a bit
    reach = 1 << 40
    first = _values(
        table, "first", rows, lambda v: v is None or (type(v) is int and abs(v) <= reach), "a whole number or null"
    )
    span = _values(
        table, "span", rows, lambda v: v is None or (_is_count(v) and v <= most), f"a number up to {most} or null"
    )
    dependent = _values(table, "dependent", rows, lambda v: v is None or type(v) is bool, "true, false or null")
    for row in zip(first, span, dependent, strict=True):
        _require(row.count(None) in (0, 3), "first, span and dependent must all be null, or none", row)
    return [None if row[0] is None else StoredLattice(*row) for row in zip(first, span, dependent, strict=True)]


def _tables(table: Table) -> tuple[StoredTable, ...]:
    rows = _rows(table, "span")
    spans = _values(table, "span", rows, lambda v: _is_count(v) and 1 <= v <= MAX_SPAN, f"1 to {MAX_SPAN}")
    bits = _values(table, "bits", rows, _is_count, "a number of bits")
    tables = tuple(map(StoredTable, spans, bits))
    for entry in tables:
        _require(entry.bits > entry.span, f"a table of span {entry.span} takes more bits than that", entry.bits)
    return tables


def _raw(table: Table) -> tuple[RawEntry, ...]:
    rows = _rows(table, "name")
    return tuple(map(RawEntry, _names(table, rows), _shapes(table, rows), _dtypes(table, rows, list(DTYPES))))


def _quantized(
    table: Table, pruned: bool, codebooks: Sequence[StoredCodebook], tables: Sequence[StoredTable]
) -> list[QuantizedEntry]:
    rows = _rows(table, "name")
    books = _values(
        table, "codebook", rows, lambda v: _is_count(v) and v < len(codebooks), f"0 to {len(codebooks) - 1}"
    )
    used: list[int | None] = [None] * rows
    if pruned:
        allowed = f"null or 0 to {len(tables) - 1}"
        used = _values(table, "table", rows, lambda v: v is None or (_is_count(v) and v < len(tables)), allowed)
    _require(set(books) == set(range(len(codebooks))), f"each of {len(codebooks)} codebooks must be in use", books)
    _require(
        {v for v in used if v is not None} == set(range(len(tables))), f"all {len(tables)} tables must be in use", used
    )
    return [
        QuantizedEntry(*row, blocks=())
        for row in zip(
            _names(table, rows), _shapes(table, rows), _dtypes(table, rows, QUANTIZED), books, used, strict=True
        )
    ]


def _with_blocks(
    bare: Sequence[QuantizedEntry],
    table: Table,
    pruned: bool,
    codebooks: Sequence[StoredCodebook],
    tables: Sequence[StoredTable],
    coding: str,
) -> tuple[QuantizedEntry, ...]:
    adaptive = codes.stored_as(coding)[0].adaptive
    sizes = [block_entries(entry.shape, adaptive) for entry in bare]
    flat = [size for entry in sizes for size in entry]
    keys = ["payload"]
    if pruned:
        keys = ["weights", "payload"] if adaptive else ["weights", "payload", "positions", "fillers"]
    columns = {key: _values(table, key, len(flat), _is_count, "a number, 0 or more") for key in keys}
    weights = columns.get("weights", flat)
    none = [0] * len(flat)
    blocks = iter(
        map(
            StoredBlock,
            flat,
            weights,
            columns.get("payload", []),
            columns.get("positions", none),
            columns.get("fillers", none),
        )
    )
    found = []
    for entry, own in zip(bare, sizes, strict=True):
        taken = tuple(next(blocks) for _ in own)
        for block in taken:
            _check_block(
                block, entry, codebooks[entry.codebook], None if entry.table is None else tables[entry.table], coding
            )
        found.append(replace(entry, blocks=taken))
    return tuple(found)


def _check_block(
    block: StoredBlock, entry: QuantizedEntry, book: StoredCodebook, table: StoredTable | None, coding: str
) -> None:
    where = f"of a block of {entry.name!r}"
    _require(block.weights <= block.entries, f"at most {block.entries} weights {where}", block.weights)
    _require(not block.weights or book.levels > 0, f"no weights {where}, whose codebook is empty", block.weights)
    code = book.code(coding)
    if not code.known_from_counts:
        _require(block.payload % 8 == 0, f"whole bytes {where}", block.payload)
    if code.payload_range is None:
        return
    least, most = code.payload_range(book.levels, block.weights)
    _require(least <= block.payload <= most, f"{least} to {most} bits {where} for its weights", block.payload)
    if block.weights in (0, block.entries):
        _require(not block.positions and not block.fillers, f"no positions {where}, all alike", block.positions)
        return
    if table is None:
        raise _damaged(f"a table of gaps {where} is required, whose weights are {block.weights} of {block.entries}")
    _require(block.fillers * table.span <= block.entries, f"fillers {where} within its entries", block.fillers)
    gaps = block.weights + block.fillers
    _require(gaps <= block.positions <= 32 * gaps, f"{gaps} to {32 * gaps} bits {where} for its gaps", block.positions)


def _tied(header: Mapping[str, Any], own: Sequence[str]) -> dict[str, str]:
    tied = _table(header, "tied")
    for name, target in tied.items():
        _require(_is_name(target) and target != name, f"{name!r} must be tied to a tensor", target)
    _require(RESERVED not in (*own, *tied), "another name of a tensor is required", RESERVED)
    known = set(own)
    _require(len(known) == len(own) and known.isdisjoint(tied), "each name must come once", _repeated([*own, *tied]))
    for name, target in tied.items():
        _require(target in known, f"{name!r} must be tied to a tensor of the file", target)
    return tied


def _repeated(names: Sequence[str]) -> str:
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), "")  # type: ignore[func-returns-value]
