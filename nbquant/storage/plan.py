"""Planning of a file before it is written: sizes of all sections, codes and header."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import numpy as np
import torch
from jaxtyping import Int

from nbquant.coding import codes
from nbquant.coding.code import Code, SymbolCode
from nbquant.coding.huffman import symbol_counts
from nbquant.coding.positions import GapCode, GapHistogram, gap_code, group_tables
from nbquant.kernels import dispatch
from nbquant.quantization.codebook import Codebook, QuantizedTensor
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.rate import block_gaps
from nbquant.quantization.streams import lattice_span, with_sizes
from nbquant.storage.dtypes import SPELLED
from nbquant.storage.header import write_header
from nbquant.storage.layout import (
    MOST_HEADER,
    Layout,
    QuantizedEntry,
    StoredBlock,
    StoredCodebook,
    StoredLattice,
    StoredTable,
    block_entries,
)
from nbquant.storage.parts import StoredPart, parts_of, require_parts
from nbquant.storage.recipe import recipe_of
from nbquant.storage.source import UnquantizedTensors


@dataclass(frozen=True, eq=False)
class PlannedCodes:
    """Codes of the groups, and of gaps with the tensors that use them."""

    of_group: Mapping[str, SymbolCode | None]
    of_gaps: Sequence[GapCode]
    table: Mapping[str, int]


def plan(quantized: Quantized, unquantized: UnquantizedTensors) -> tuple[Layout, PlannedCodes, bytes]:
    """Plan the layout, codes and header of a file."""
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


_Planned = tuple[tuple[StoredCodebook, ...], tuple[StoredTable, ...], tuple[QuantizedEntry, ...], PlannedCodes]


def _adaptive(quantized: Quantized, groups: Mapping[str, str], kind: Code) -> _Planned:
    """Sizes of adaptively coded streams, found by coding."""
    pruned, order = quantized.pruned, {group: i for i, group in enumerate(quantized.codebooks)}
    books = []
    for group, book in quantized.codebooks.items():
        dtype, lattice = SPELLED[book.value.dtype], book.lattice
        first = int(lattice.integer[0]) if lattice and len(lattice.integer) else 0
        stored = StoredLattice(first, lattice_span(book), lattice.dependent) if lattice else None
        books.append(StoredCodebook(group, dtype, len(book.value), None, stored, format_of(book)))
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
        dtype, parts = SPELLED[tensor.dtype], _parts(name, tensor)
        entries.append(
            QuantizedEntry(name, tuple(tensor.shape), dtype, order[groups[name]], None, tuple(blocks), parts)
        )
    return tuple(books), (), tuple(entries), PlannedCodes({}, (), {})


def _with_codes(quantized: Quantized, groups: Mapping[str, str], kind: Code) -> _Planned:
    """Codes and tables, with the resulting sizes of each block."""
    pruned = quantized.pruned
    of_group = {group: _code(book, kind) for group, book in quantized.codebooks.items()}
    books = []
    for group, book in quantized.codebooks.items():
        code = of_group[group]
        bits = None if not kind.has_table else code.table_bits if code else 0
        dtype = SPELLED[book.value.dtype]
        books.append(StoredCodebook(group, dtype, len(book.value), bits, format=format_of(book)))
    gaps = {name: _gaps(tensor) for name, tensor in quantized.tensors.items()} if pruned else {}
    whole = {name: reduce(add, parts) for name, parts in gaps.items()}
    names = list(whole)
    tables: dict[str, int] = {}
    of_gaps: list[GapCode] = []
    for i, members in enumerate(group_tables(list(whole.values()), progress=False)):
        of_gaps.append(gap_code(reduce(add, (whole[names[m]] for m in members))))
        tables |= {names[m]: i for m in members}
    made = PlannedCodes(of_group, of_gaps, tables)
    order = {group: i for i, group in enumerate(quantized.codebooks)}
    entries = []
    for name, tensor in quantized.tensors.items():
        book_of, table, dtype = order[groups[name]], tables.get(name), SPELLED[tensor.dtype]
        entry = QuantizedEntry(name, tuple(tensor.shape), dtype, book_of, table, (), _parts(name, tensor))
        parts = gaps.get(name, [GapHistogram(np.zeros(0, np.int64), np.zeros(0, np.int64))] * len(slices(tensor)))
        code, of_tensor = of_group[groups[name]], of_gaps[tables[name]] if name in tables else None
        levels = len(tensor.codebook)
        sizes: Sequence[int | None] = [None] * len(parts)
        if not kind.known_from_counts:
            book = quantized.codebooks[groups[name]]
            sizes = tensor.streams or with_sizes(tensor, book, kind, pruned).streams or ()
        blocks = [
            (tensor, block, part, code, of_tensor, levels, size)
            for block, part, size in zip(slices(tensor), parts, sizes, strict=False)
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
    assignment = indices(tensor, place)
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


def format_of(book: Codebook) -> str | None:
    """Name of the block format whose levels a codebook has."""
    return None if book.levels is None else book.levels.format


def _parts(name: str, tensor: QuantizedTensor) -> tuple[StoredPart, ...]:
    if tensor.scaling is None:
        return ()
    require_parts(name, tensor.scaling, tensor.shape)
    return parts_of(tensor.scaling.format, tensor.shape)


def slices(tensor: QuantizedTensor) -> list[slice]:
    """Split a tensor's indices into blocks."""
    found, begin = [], 0
    for entries in block_entries(tensor.shape, adaptive=False):
        found.append(slice(begin, begin + entries))
        begin += entries
    return found


def indices(tensor: QuantizedTensor, place: slice) -> Int[np.ndarray, " n"]:
    """Copy the indices of a block to the CPU."""
    return tensor.assignment.reshape(-1)[place].detach().cpu().numpy()


def _gaps(tensor: QuantizedTensor) -> list[GapHistogram]:
    # Pruned weights are −1, and gaps lie between non-zero entries.
    return block_gaps(tensor.assignment.reshape(-1) + 1)
