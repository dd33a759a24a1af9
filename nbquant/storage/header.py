"""Serialization of the layout as JSON header, and its strict validation on reading.

A table is an object with a key per column. A column is a list, or one value for all rows.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from nbquant.coding import codes
from nbquant.coding.code import Code
from nbquant.coding.levels import MOST_SPAN
from nbquant.coding.positions import MAX_SPAN
from nbquant.quantization.blocks import formats as block_formats
from nbquant.storage.columns import (
    Table,
    column,
    damaged,
    depth_of,
    dtypes_of,
    is_count,
    is_name,
    names_of,
    require,
    rows_of,
    shapes_of,
    table_of,
    values_of,
)
from nbquant.storage.dtypes import DTYPES, QUANTIZED, entry_bytes
from nbquant.storage.layout import (
    DEFAULT_CODING,
    MAJOR_WITH_FORMATS,
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
from nbquant.storage.parts import parts_of
from nbquant.tensorfile import parse_json

RESERVED = "__metadata__"  # not allowed as a tensor name in safetensors files
MOST_DEPTH = 16


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
            "dtype": column([entry.dtype for entry in layout.quantized]),
            "codebook": column([entry.codebook for entry in layout.quantized]),
        }
        header["blocks"] = {"payload": column([block.payload for block in blocks])}
    if with_positions:
        header["quantized"]["table"] = column([entry.table for entry in layout.quantized])
    if layout.pruned:
        for key in ("weights", "positions", "fillers") if with_positions else ("weights",):
            header["blocks"][key] = column([getattr(block, key) for block in blocks])
    if layout.codebooks:
        header["codebooks"] = {
            "name": [book.name for book in layout.codebooks],
            "dtype": column([book.dtype for book in layout.codebooks]),
            "levels": column([book.levels for book in layout.codebooks]),
        }
        if not layout.adaptive:
            header["codebooks"]["bits"] = column([book.bits for book in layout.codebooks])
        lattices = [book.lattice for book in layout.codebooks]
        if any(lattices):
            for key in ("first", "span", "dependent"):
                header["codebooks"][key] = column([getattr(lattice, key, None) for lattice in lattices])
        if layout.major == MAJOR_WITH_FORMATS:
            header["codebooks"]["format"] = column([book.format for book in layout.codebooks])
    if layout.tables:
        header["tables"] = {
            "span": [table.span for table in layout.tables],
            "bits": column([table.bits for table in layout.tables]),
        }
    if layout.raw:
        header["raw"] = {
            "name": [entry.name for entry in layout.raw],
            "shape": [entry.shape for entry in layout.raw],
            "dtype": column([entry.dtype for entry in layout.raw]),
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
        raise damaged(f"JSON without NaN or broken characters is required, but {error}") from None
    require(depth_of(header) <= MOST_DEPTH, f"at most {MOST_DEPTH} nested objects and lists are allowed", header)
    coding = header.get("coding", DEFAULT_CODING)
    known = codes.stored_names(major)
    require(
        isinstance(coding, str) and coding in known, f"coding must be {' or '.join(known)} in version {major}", coding
    )
    kinds = codes.stored_as(coding)
    adaptive = kinds[0].adaptive
    codebooks = _codebooks(table_of(header, "codebooks"), file_size, kinds, major == MAJOR_WITH_FORMATS)
    tables = _tables(table_of(header, "tables"))
    quantized = table_of(header, "quantized")
    raw_entries = _raw(table_of(header, "raw"))
    blocks = table_of(header, "blocks")
    pruned = "table" in quantized if not adaptive else "weights" in blocks
    bare = _quantized(quantized, pruned and not adaptive, codebooks, tables)
    entries: tuple[QuantizedEntry | RawEntry, ...] = (*bare, *raw_entries)
    restored = sum(prod(entry.shape) * entry_bytes(entry.dtype) for entry in entries)
    if restored > most_restored:
        raise damaged(
            f"tensors of at most {most_restored} bytes are expected of a file of {file_size}, but they take "
            f"{restored}: if you trust it and have the memory, load it with max_bytes={restored}"
        )
    whole = _with_blocks(bare, blocks, pruned, codebooks, tables, coding)
    recipe = header.get("recipe", {})
    require(isinstance(recipe, dict), "the recipe must be an object", recipe)
    metadata = header.get("metadata", {})
    require(is_metadata(metadata), f"metadata must be an object of texts of at most {MOST_METADATA:,} bytes", metadata)
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
        raise damaged(
            f"{layout.size} bytes are in a file with this header, but it has {file_size}: it is cut, or something "
            "was added; get it again"
        )
    return layout


def _codebooks(table: Table, file_size: int, kinds: Sequence[Code], with_formats: bool) -> tuple[StoredCodebook, ...]:
    books = _plain_codebooks(table, file_size, kinds)
    if not with_formats:
        return books
    known = block_formats.names()
    named = values_of(
        table, "format", len(books), lambda v: v is None or (isinstance(v, str) and _is_format(v)), f"null, {known}"
    )
    require(any(named), "at least one block format in version 3", named)
    found = tuple(replace(book, format=name) for book, name in zip(books, named, strict=True))
    for book in found:
        if book.format is not None:
            most = len(block_formats.named(book.format).levels)
            require(book.levels <= most, f"at most {most} levels in {book.format}", book.levels)
            require(book.dtype == "F32" and book.lattice is None, f"levels of {book.format} in F32", book.dtype)
    return found


def _is_format(name: str) -> bool:
    try:
        block_formats.named(name)
    except ValueError:
        return False
    return True


def _plain_codebooks(table: Table, file_size: int, kinds: Sequence[Code]) -> tuple[StoredCodebook, ...]:
    rows = rows_of(table, "name")
    names = names_of(table, rows)
    require(len(set(names)) == rows, "each codebook must have a name of its own", names)
    levels = values_of(table, "levels", rows, lambda v: is_count(v) and v <= file_size, "levels that fit into the file")
    dtypes = dtypes_of(table, rows, QUANTIZED)
    if kinds[0].adaptive:
        lattices = _lattices(table, rows, file_size)
        books = tuple(map(StoredCodebook, names, dtypes, levels, [None] * rows, lattices))
        for book in books:
            fits = book.lattice is None or book.levels <= book.lattice.span
            require(fits, f"a span of at least its {book.levels} levels", book.lattice)
        return books
    tabled, bare = (any(code.has_table == has for code in kinds) for has in (True, False))
    needed = " or ".join(["bits of a code table"] * tabled + ["null"] * bare)
    bits = values_of(table, "bits", rows, lambda v: (is_count(v) and tabled) or (v is None and bare), needed)
    books = tuple(map(StoredCodebook, names, dtypes, levels, bits))
    for book in books:
        require(
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
    first = values_of(
        table, "first", rows, lambda v: v is None or (type(v) is int and abs(v) <= reach), "a whole number or null"
    )
    span = values_of(
        table, "span", rows, lambda v: v is None or (is_count(v) and v <= most), f"a number up to {most} or null"
    )
    dependent = values_of(table, "dependent", rows, lambda v: v is None or type(v) is bool, "true, false or null")
    for row in zip(first, span, dependent, strict=True):
        require(row.count(None) in (0, 3), "first, span and dependent must all be null, or none", row)
    return [None if row[0] is None else StoredLattice(*row) for row in zip(first, span, dependent, strict=True)]


def _tables(table: Table) -> tuple[StoredTable, ...]:
    rows = rows_of(table, "span")
    spans = values_of(table, "span", rows, lambda v: is_count(v) and 1 <= v <= MAX_SPAN, f"1 to {MAX_SPAN}")
    bits = values_of(table, "bits", rows, is_count, "a number of bits")
    tables = tuple(map(StoredTable, spans, bits))
    for entry in tables:
        require(entry.bits > entry.span, f"a table of span {entry.span} takes more bits than that", entry.bits)
    return tables


def _raw(table: Table) -> tuple[RawEntry, ...]:
    rows = rows_of(table, "name")
    return tuple(map(RawEntry, names_of(table, rows), shapes_of(table, rows), dtypes_of(table, rows, list(DTYPES))))


def _quantized(
    table: Table, pruned: bool, codebooks: Sequence[StoredCodebook], tables: Sequence[StoredTable]
) -> list[QuantizedEntry]:
    rows = rows_of(table, "name")
    books = values_of(
        table, "codebook", rows, lambda v: is_count(v) and v < len(codebooks), f"0 to {len(codebooks) - 1}"
    )
    used: list[int | None] = [None] * rows
    if pruned:
        allowed = f"null or 0 to {len(tables) - 1}"
        used = values_of(table, "table", rows, lambda v: v is None or (is_count(v) and v < len(tables)), allowed)
    require(set(books) == set(range(len(codebooks))), f"each of {len(codebooks)} codebooks must be in use", books)
    require(
        {v for v in used if v is not None} == set(range(len(tables))), f"all {len(tables)} tables must be in use", used
    )
    return [
        QuantizedEntry(*row, blocks=())
        for row in zip(
            names_of(table, rows), shapes_of(table, rows), dtypes_of(table, rows, QUANTIZED), books, used, strict=True
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
    columns = {key: values_of(table, key, len(flat), is_count, "a number, 0 or more") for key in keys}
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
        form = codebooks[entry.codebook].format
        found.append(replace(entry, blocks=taken, parts=() if form is None else parts_of(form, entry.shape)))
    return tuple(found)


def _check_block(
    block: StoredBlock, entry: QuantizedEntry, book: StoredCodebook, table: StoredTable | None, coding: str
) -> None:
    where = f"of a block of {entry.name!r}"
    require(block.weights <= block.entries, f"at most {block.entries} weights {where}", block.weights)
    require(not block.weights or book.levels > 0, f"no weights {where}, whose codebook is empty", block.weights)
    code = book.code(coding)
    if not code.known_from_counts:
        require(block.payload % 8 == 0, f"whole bytes {where}", block.payload)
    if code.payload_range is None:
        return
    least, most = code.payload_range(book.levels, block.weights)
    require(least <= block.payload <= most, f"{least} to {most} bits {where} for its weights", block.payload)
    if block.weights in (0, block.entries):
        require(not block.positions and not block.fillers, f"no positions {where}, all alike", block.positions)
        return
    if table is None:
        raise damaged(f"a table of gaps {where} is required, whose weights are {block.weights} of {block.entries}")
    require(block.fillers * table.span <= block.entries, f"fillers {where} within its entries", block.fillers)
    gaps = block.weights + block.fillers
    require(gaps <= block.positions <= 32 * gaps, f"{gaps} to {32 * gaps} bits {where} for its gaps", block.positions)


def _tied(header: Mapping[str, Any], own: Sequence[str]) -> dict[str, str]:
    tied = table_of(header, "tied")
    for name, target in tied.items():
        require(is_name(target) and target != name, f"{name!r} must be tied to a tensor", target)
    require(RESERVED not in (*own, *tied), "another name of a tensor is required", RESERVED)
    known = set(own)
    require(len(known) == len(own) and known.isdisjoint(tied), "each name must come once", _repeated([*own, *tied]))
    for name, target in tied.items():
        require(target in known, f"{name!r} must be tied to a tensor of the file", target)
    return tied


def _repeated(names: Sequence[str]) -> str:
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), "")  # type: ignore[func-returns-value]
