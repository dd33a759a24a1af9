"""Writing quantized models to .nbq files."""

import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from hashlib import blake2b
from operator import add
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from jaxtyping import Int
from torch import nn

from nbquant.coding import codes
from nbquant.coding.code import Code, SymbolCode
from nbquant.coding.code_table import encode_lengths
from nbquant.coding.huffman import symbol_counts
from nbquant.coding.ledger import Ledger
from nbquant.coding.positions import GapCode, GapHistogram, gap_code, group_tables
from nbquant.kernels import dispatch
from nbquant.progress import Progress, track
from nbquant.quantization.codebook import Codebook, Lattice, QuantizedTensor
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.rate import block_gaps
from nbquant.quantization.streams import adaptive_streams, lattice_span, with_sizes
from nbquant.replacing import replacing
from nbquant.required import require_path
from nbquant.storage.blocks import encode_block
from nbquant.storage.dtypes import SPELLED, as_bytes
from nbquant.storage.header import write_header
from nbquant.storage.layout import (
    DIGEST,
    MAGIC,
    MOST_HEADER,
    Layout,
    QuantizedEntry,
    StoredBlock,
    StoredCodebook,
    StoredLattice,
    StoredTable,
    block_entries,
)
from nbquant.storage.recipe import recipe_of
from nbquant.storage.source import UnquantizedTensors, unquantized_of


@dataclass(frozen=True, eq=False)
class _Codes:
    """Codes of the groups, and of gaps with the tensors that use them."""

    of_group: Mapping[str, SymbolCode | None]
    of_gaps: Sequence[GapCode]
    table: Mapping[str, int]


def save(
    quantized: Quantized,
    path: str | os.PathLike[str],
    model: nn.Module | str | os.PathLike[str] | None = None,
    *,
    progress: Progress = True,
) -> Ledger:
    """Write a quantized model to a file from which all its tensors can be restored bit for bit.

    The same input gives the same bytes. An existing file is replaced only when the new one is complete; if
    anything fails, it stays unchanged.

    Args:
        quantized: The quantized selection.
        path: The file, ending in .nbq, in a folder that exists.
        model: The module or checkpoint path selected from: provides the parameters and buffers that are
            not quantized, further names of tied parameters, and the metadata of a checkpoint. None if the
            selection is complete.
        progress: See :data:`nbquant.progress.Progress`; counts blocks and tensors that are not quantized.

    Returns:
        Every bit of the file, by part: those of ``quantized.ledger``, "unquantized", "header" (names, shapes,
        recipe, metadata), "container" (magic, version, checksums) and "padding" (bits that fill bytes). Sums to 8
        times its size.

    Raises:
        ValueError: Another ending, a model that does not fit, no model although there is more to store, a codebook that
            is not finite.
        TypeError: Arguments of other types.
        OSError: A folder that does not exist, is read-only or full.
        Cancelled: By ``progress``.
    """
    if not isinstance(quantized, Quantized):
        raise TypeError(
            f"the result of nbquant.fit is required, but a {type(quantized).__name__} came: save(quantized, path, …)."
        )
    require_path("path", path)
    path = Path(path)
    if path.suffix != ".nbq":
        raise ValueError(f"the name of the file must end in .nbq, but {path.name!r} came: add the ending.")
    quantized.require_whole()
    unquantized = unquantized_of(model, quantized)
    layout, made, header = _plan(quantized, unquantized)
    steps = sum(len(entry.blocks) for entry in layout.quantized) + len(layout.raw)
    ticks = track(range(steps), "save", progress)
    next(ticks, None)
    with replacing(path) as partial, partial.open("xb") as file:
        _write(file, header, quantized, layout, made, unquantized, ticks)
        assert file.tell() == layout.size, f"{file.tell()} bytes of {layout.size}"
    return layout.ledger


def file_ledger(quantized: Quantized, model: nn.Module | str | os.PathLike[str] | None = None) -> Ledger:
    """Compute the result of :func:`save` without writing a file.

    Raises:
        ValueError, TypeError: As :func:`save`.
        OSError: A checkpoint that does not exist or cannot be read.
    """
    return _plan(quantized, unquantized_of(model, quantized))[0].ledger


def _plan(quantized: Quantized, unquantized: UnquantizedTensors) -> tuple[Layout, _Codes, bytes]:
    """All sizes and the header, before anything is written."""
    groups = {name: _group(quantized, name) for name in quantized.tensors}
    for name, tensor in quantized.tensors.items():
        _require_consistent(name, tensor, quantized.codebooks[groups[name]])
    for group, book in quantized.codebooks.items():
        _require_finite(book, group)
    kind = codes.named(quantized.quantizer.coding)
    books, tables, entries, made = (_adaptive if kind.adaptive else _with_codes)(quantized, groups, kind)
    pruned = quantized.pruned
    if not pruned and any(b.weights < b.entries for e in entries for b in e.blocks):
        raise ValueError("weights of this selection are pruned, but its ledger has no positions: make it with fit().")
    raw = tuple(entry for entry, _ in unquantized.content)
    layout = Layout(
        books, tables, entries, raw, unquantized.tied, pruned, kind.stored, recipe_of(quantized), unquantized.metadata
    )
    header = write_header(layout)
    if len(header) > MOST_HEADER:
        raise ValueError(
            f"names, shapes, recipe and metadata must take at most {MOST_HEADER:,} bytes, but take {len(header):,}: "
            "save parts of the model separately."
        )
    return replace(layout, header_size=len(header)), made, header


_Planned = tuple[tuple[StoredCodebook, ...], tuple[StoredTable, ...], tuple[QuantizedEntry, ...], _Codes]


def _adaptive(quantized: Quantized, groups: Mapping[str, str], kind: Code) -> _Planned:
    """Sizes of adaptively coded streams, found by coding."""
    pruned, order = quantized.pruned, {group: i for i, group in enumerate(quantized.codebooks)}
    books = []
    for group, book in quantized.codebooks.items():
        dtype, lattice = SPELLED[book.value.dtype], book.lattice
        first = int(lattice.integer[0]) if lattice and len(lattice.integer) else 0
        stored = StoredLattice(first, lattice_span(book), lattice.dependent) if lattice else None
        books.append(StoredCodebook(group, dtype, len(book.value), None, stored))
    entries = []
    for name, tensor in quantized.tensors.items():
        book = quantized.codebooks[groups[name]]
        sizes = tensor.streams or with_sizes(tensor, book, kind, pruned).streams or ()
        flat = tensor.assignment.reshape(-1)
        blocks, begin = [], 0
        for count, size in zip(block_entries(tensor.shape, adaptive=True), sizes, strict=True):
            weights = int((flat[begin : begin + count] >= 0).sum())
            blocks.append(StoredBlock(count, weights, 8 * size))
            begin += count
        dtype = SPELLED[tensor.codebook.dtype]
        entries.append(QuantizedEntry(name, tuple(tensor.shape), dtype, order[groups[name]], None, tuple(blocks)))
    return tuple(books), (), tuple(entries), _Codes({}, (), {})


def _with_codes(quantized: Quantized, groups: Mapping[str, str], kind: Code) -> _Planned:
    """Codes and tables, with the resulting sizes of each block."""
    pruned = quantized.pruned
    of_group = {group: _code(book, kind) for group, book in quantized.codebooks.items()}
    books = []
    for group, book in quantized.codebooks.items():
        code = of_group[group]
        bits = None if not kind.has_table else code.table_bits if code else 0
        books.append(StoredCodebook(group, SPELLED[book.value.dtype], len(book.value), bits))
    gaps = {name: _gaps(tensor) for name, tensor in quantized.tensors.items()} if pruned else {}
    whole = {name: reduce(add, parts) for name, parts in gaps.items()}
    names = list(whole)
    tables: dict[str, int] = {}
    of_gaps: list[GapCode] = []
    for i, members in enumerate(group_tables(list(whole.values()), progress=False)):
        of_gaps.append(gap_code(reduce(add, (whole[names[m]] for m in members))))
        tables |= {names[m]: i for m in members}
    made = _Codes(of_group, of_gaps, tables)
    order = {group: i for i, group in enumerate(quantized.codebooks)}
    entries = []
    for name, tensor in quantized.tensors.items():
        entry = QuantizedEntry(
            name, tuple(tensor.shape), SPELLED[tensor.codebook.dtype], order[groups[name]], tables.get(name), ()
        )
        parts = gaps.get(name, [GapHistogram(np.zeros(0, np.int64), np.zeros(0, np.int64))] * len(_slices(tensor)))
        code, of_tensor = of_group[groups[name]], of_gaps[tables[name]] if name in tables else None
        levels = len(tensor.codebook)
        sizes: Sequence[int | None] = [None] * len(parts)
        if not kind.known_from_counts:
            book = quantized.codebooks[groups[name]]
            sizes = tensor.streams or with_sizes(tensor, book, kind, pruned).streams or ()
        blocks = [
            (tensor, block, part, code, of_tensor, levels, size)
            for block, part, size in zip(_slices(tensor), parts, sizes, strict=False)
        ]
        entries.append(replace(entry, blocks=tuple(dispatch.in_order(_planned, blocks))))
    used = [StoredTable(code.span, code.table_bits) for code in of_gaps]
    return tuple(books), tuple(used), tuple(entries), made


def _planned(
    tensor: QuantizedTensor,
    place: slice,
    gaps: GapHistogram,
    code: SymbolCode | None,
    of_gaps: GapCode | None,
    levels: int,
    size: int | None,
) -> StoredBlock:
    """Sizes of a block's streams; the bytes of the indices may be known already."""
    assignment = _indices(tensor, place)
    weights = assignment[assignment >= 0] if assignment.min() < 0 else assignment  # no copy of dense blocks
    counts = symbol_counts(weights, max(levels, 1))  # rejects indices outside the codebook
    if size is not None:
        payload = 8 * size
    elif code is not None:
        padded = np.zeros(len(code), np.int64)
        padded[:levels] = counts[:levels]
        payload = code.payload_bits(padded)
    else:
        payload = 0
    if not gaps.total or of_gaps is None:
        return StoredBlock(len(assignment), len(weights), payload)
    in_span = gaps.symbol_counts(of_gaps.span)
    return StoredBlock(len(assignment), len(weights), payload, of_gaps.payload_bits(gaps), int(in_span[-1]))


def _group(quantized: Quantized, name: str) -> str:
    """The group of a tensor's codebook, which must exist."""
    group = quantized.group_of(name)
    if group not in quantized.codebooks:
        raise ValueError(
            f"a codebook for the layer {group!r} of {name!r} is required, but there are only "
            f"{', '.join(map(repr, quantized.codebooks))}: quantize again."
        )
    return group


def _require_finite(book: Codebook, group: str) -> None:
    if not book.value.isfinite().all():
        raise ValueError(
            f"finite reconstruction values are required, but the codebook {group!r} has "
            f"{int((~book.value.isfinite()).sum())} that are not: fine-tune with a smaller learning rate."
        )


def _code(book: Codebook, kind: Code) -> SymbolCode | None:
    assert kind.make is not None
    return kind.make(book.counts.cpu().numpy(), book.codeword_length.cpu().numpy()) if len(book.value) else None


def _require_consistent(name: str, tensor: QuantizedTensor, book: Codebook) -> None:
    of_group = book.value.detach().to(tensor.codebook.dtype)
    own = tensor.codebook.detach()
    if own.shape != of_group.shape or not torch.equal(own.cpu(), of_group.cpu()):
        raise ValueError(
            f"the values of {name!r} must be those of its group's codebook, but are not: change both, or fine-tune "
            "with nbquant.finetune."
        )
    if tensor.assignment.numel() != tensor.shape.numel():
        raise ValueError(
            f"{tensor.shape.numel()} indices are required for {name!r}, but there are {tensor.assignment.numel()}."
        )


def _slices(tensor: QuantizedTensor) -> list[slice]:
    found, begin = [], 0
    for entries in block_entries(tensor.shape, adaptive=False):
        found.append(slice(begin, begin + entries))
        begin += entries
    return found


def _indices(tensor: QuantizedTensor, place: slice) -> Int[np.ndarray, " n"]:
    return tensor.assignment.reshape(-1)[place].detach().cpu().numpy()


def _gaps(tensor: QuantizedTensor) -> list[GapHistogram]:
    # Pruned weights are −1, and gaps lie between non-zero entries.
    return block_gaps(tensor.assignment.reshape(-1) + 1)


class _Checked:
    """A file with a checksum of each section and a digest of all."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest = file, blake2b(digest_size=DIGEST)

    def section(self, pieces: Iterable[bytes | memoryview]) -> None:
        checksum = 0
        for piece in pieces:
            checksum = zlib.crc32(piece, checksum)
            self._put(piece)
        self._put(struct.pack("<I", checksum))

    def end(self) -> None:
        self._file.write(self._digest.digest())

    def _put(self, piece: bytes | memoryview) -> None:
        self._digest.update(piece)
        self._file.write(piece)


def _write(
    file: BinaryIO,
    header: bytes,
    quantized: Quantized,
    layout: Layout,
    made: _Codes,
    unquantized: UnquantizedTensors,
    ticks: Iterator[object],
) -> None:
    out = _Checked(file)
    out.section([MAGIC + struct.pack("<HHI", layout.major, layout.minor, len(header)) + header])
    for stored, book in zip(layout.codebooks, quantized.codebooks.values(), strict=True):
        code = made.of_group.get(stored.name)
        table = code.encode_table() if stored.bits and code is not None else b""
        values = _lattice(book.lattice) if book.lattice and stored.lattice else as_bytes(book.value.detach().cpu())
        out.section([values, table])
    for gaps in made.of_gaps:
        out.section([encode_lengths(gaps.code.lengths)])
    for entry in layout.quantized:
        tensor = quantized.tensors[entry.name]
        if layout.adaptive:
            kind = codes.named(quantized.quantizer.coding)
            book = quantized.codebooks[quantized.group_of(entry.name)]
            streams = _unchanged(adaptive_streams(tensor, book, kind, layout.pruned), entry)
        else:
            streams = _streams(tensor, entry, layout, made)
        out.section(_ticking(streams, ticks))
    for i in range(len(layout.raw)):
        out.section(unquantized.pieces(i))
        next(ticks, None)
    out.end()


def _streams(tensor: QuantizedTensor, entry: QuantizedEntry, layout: Layout, made: _Codes) -> Iterator[bytes]:
    code = made.of_group[layout.codebooks[entry.codebook].name]
    gaps = None if entry.table is None else made.of_gaps[entry.table]

    def encoded(place: slice, block: StoredBlock) -> bytes:
        return encode_block(_indices(tensor, place), block, code, gaps)

    return dispatch.in_order(encoded, zip(_slices(tensor), entry.blocks, strict=True))


def _lattice(lattice: Lattice) -> bytes:
    """The step, and a bit for each integer from the first to the last: whether it is in use."""
    integer = lattice.integer.cpu().numpy()
    used = np.zeros(integer[-1] - integer[0] + 1 if len(integer) else 0, bool)
    used[integer - integer[0] if len(integer) else []] = True
    return struct.pack("<d", lattice.step) + np.packbits(used).tobytes()


def _unchanged(streams: Iterable[bytes], entry: QuantizedEntry) -> Iterator[bytes]:
    for stream, block in zip(streams, entry.blocks, strict=True):
        if 8 * len(stream) != block.payload:
            raise ValueError(
                f"the indices of {entry.name!r} must be those that were quantized, but were changed: quantize again."
            )
        yield stream


def _ticking(pieces: Iterable[bytes], ticks: Iterator[object]) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        next(ticks, None)
