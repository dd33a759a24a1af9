"""Exact sizes of coded streams: from codeword lengths, or by encoding."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from jaxtyping import Int

from nbquant.coding import codes
from nbquant.coding import positions as coded_positions
from nbquant.coding.code import Code
from nbquant.coding.ledger import Ledger
from nbquant.coding.levels import block_shapes
from nbquant.kernels import dispatch
from nbquant.progress import Progress, track
from nbquant.quantization.blocks import formats as block_formats
from nbquant.quantization.codebook import Codebook, QuantizedTensor, alphabet_of
from nbquant.quantization.rate import code_ledger

LATTICE_BITS = 64  # bits of a stored step

Place = tuple[int, int, int]
Encoder = Callable[[int, int, int], bytes]


def group_of(name: str, codebooks: Mapping[str, Codebook]) -> str:
    """Find the group of a tensor: the only one, or its layer's."""
    return next(iter(codebooks)) if len(codebooks) == 1 else name.rpartition(".")[0]


def book_ledger(book: Codebook, coding: str) -> Ledger:
    """Count payload by codeword lengths, code table, and codebook as stored.

    For a lattice under the codes of file version 2, the codebook is the step and a bit for each integer from
    the first to the last in use; for levels of a block format it is a bit for each of them.
    """
    counts, lengths = book.counts.cpu().numpy(), book.codeword_length.cpu().numpy()
    ledger = code_ledger(counts, lengths, coding, torch.finfo(book.value.dtype).bits)
    if book.levels is not None:
        return Ledger({**ledger, "codebook": len(block_formats.named(book.levels.format).levels)})
    if not codes.named(coding).adaptive or book.lattice is None:
        return ledger
    return Ledger({**ledger, "codebook": LATTICE_BITS + lattice_span(book)})


def lattice_span(book: Codebook) -> int:
    """Count the integers from the first to the last of a lattice."""
    assert book.lattice is not None
    integer = book.lattice.integer
    return int(integer[-1] - integer[0]) + 1 if len(integer) else 0


def coded(
    tensors: Mapping[str, QuantizedTensor],
    codebooks: Mapping[str, Codebook],
    coding: str,
    positions: Callable[[], Ledger] | None,
    progress: Progress = False,
) -> tuple[dict[str, QuantizedTensor], Ledger]:
    """Count every bit of a quantized selection, by part.

    Args:
        tensors: The quantized tensors.
        codebooks: Codebooks by group.
        coding: Name of the code of the indices.
        positions: Bits of the positions of pruned weights, where the code needs them; None if nothing is pruned.
        progress: See :data:`nbquant.progress.Progress`; counts encoded tensors.

    Returns:
        The tensors with the sizes of their streams, and the ledger.
    """
    ledger = sum((book_ledger(book, coding) for book in codebooks.values()), Ledger())
    pruned, measured = positions is not None, dict(tensors)
    code = codes.named(coding)
    if not code.known_from_counts:
        work = {name: _blocks(tensors[name], codebooks[group_of(name, codebooks)], code, pruned) for name in tensors}
        # Blocks of different tensors are coded at the same time: most tensors are a single block.
        sizes = dispatch.in_order(_size, ((encoded, place) for encoded, places in work.values() for place in places))
        for name in track(list(tensors), "coding", progress):
            measured[name] = replace(tensors[name], streams=tuple(islice(sizes, len(work[name][1]))))
        ledger = Ledger({**ledger, "payload": 8 * sum(sum(tensor.streams or ()) for tensor in measured.values())})
    for tensor in measured.values():
        if tensor.scaling is not None:
            ledger += Ledger(tensor.scaling.bits())
    if positions is not None:
        ledger += positions() if not code.adaptive else Ledger(position_payload=0, position_table=0)
    return measured, ledger


def with_sizes(tensor: QuantizedTensor, book: Codebook, code: Code, pruned: bool) -> QuantizedTensor:
    """Encode a tensor to find the sizes of its streams.

    Raises:
        ValueError: As :func:`adaptive_streams`.
    """
    encoded, places = _blocks(tensor, book, code, pruned)
    return replace(tensor, streams=tuple(dispatch.in_order(_size, ((encoded, place) for place in places))))


def _size(encoded: Encoder, place: Place) -> int:
    return len(encoded(*place))


def _blocks(tensor: QuantizedTensor, book: Codebook, code: Code, pruned: bool) -> tuple[Encoder, Sequence[Place]]:
    """Make a function that encodes a block of a tensor, and the blocks' places: first entry, rows and columns."""
    return _adaptive_blocks(tensor, book, code, pruned) if code.adaptive else _symbol_blocks(tensor, book, code)


def _symbol_blocks(tensor: QuantizedTensor, book: Codebook, kind: Code) -> tuple[Encoder, Sequence[Place]]:
    assert kind.make is not None
    code = kind.make(book.counts.cpu().numpy(), book.codeword_length.cpu().numpy())
    flat = tensor.assignment.reshape(-1)

    def encoded(begin: int, rows: int, cols: int) -> bytes:
        index = flat[begin : begin + rows * cols].detach().cpu().numpy()
        used = index[index >= 0]
        return code.encode(used) if code is not None and len(used) else b""

    most = coded_positions.BLOCK_ENTRIES
    return encoded, [(begin, min(most, len(flat) - begin), 1) for begin in range(0, len(flat), most)]


def adaptive_streams(tensor: QuantizedTensor, book: Codebook, code: Code, pruned: bool) -> Iterator[bytes]:
    """Encode the blocks of a tensor by an adaptive code, in order.

    Args:
        tensor: Its indices.
        book: The codebook.
        code: The adaptive code.
        pruned: Whether zeros of the selection are left out.

    Raises:
        ValueError: Indices that are not in the codebook, or integers that are on no path through the trellis.
    """
    encoded, places = _adaptive_blocks(tensor, book, code, pruned)
    return dispatch.in_order(encoded, places)


def _adaptive_blocks(
    tensor: QuantizedTensor, book: Codebook, code: Code, pruned: bool
) -> tuple[Encoder, Sequence[Place]]:
    alphabet = alphabet_of(book.value, book.lattice, pruned)
    flat = tensor.assignment.reshape(-1)

    def encoded(begin: int, rows: int, cols: int) -> bytes:
        index: Int[np.ndarray, " n"] = flat[begin : begin + rows * cols].detach().cpu().numpy()
        return alphabet.encode(index, rows, cols, code)

    places, begin = [], 0
    for rows, cols in block_shapes(tensor.shape):
        places.append((begin, rows, cols))
        begin += rows * cols
    return encoded, places
