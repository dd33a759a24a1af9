"""Exact sizes of coded streams: from codeword lengths, or by encoding."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

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
        for name in track(list(tensors), "coding", progress):
            measured[name] = with_sizes(tensors[name], codebooks[group_of(name, codebooks)], code, pruned)
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
    made = adaptive_streams(tensor, book, code, pruned) if code.adaptive else _symbol_streams(tensor, book, code)
    return replace(tensor, streams=tuple(map(len, made)))


def _symbol_streams(tensor: QuantizedTensor, book: Codebook, kind: Code) -> Iterator[bytes]:
    assert kind.make is not None
    code = kind.make(book.counts.cpu().numpy(), book.codeword_length.cpu().numpy())
    flat = tensor.assignment.reshape(-1)

    def encoded(begin: int) -> bytes:
        index = flat[begin : begin + coded_positions.BLOCK_ENTRIES].detach().cpu().numpy()
        used = index[index >= 0]
        return code.encode(used) if code is not None and len(used) else b""

    return dispatch.in_order(encoded, ((begin,) for begin in range(0, len(flat), coded_positions.BLOCK_ENTRIES)))


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
    alphabet = alphabet_of(book.value, book.lattice, pruned)
    flat = tensor.assignment.reshape(-1)

    def encoded(begin: int, rows: int, cols: int) -> bytes:
        index: Int[np.ndarray, " n"] = flat[begin : begin + rows * cols].detach().cpu().numpy()
        return alphabet.encode(index, rows, cols, code)

    def blocks() -> Iterator[tuple[int, int, int]]:
        begin = 0
        for rows, cols in block_shapes(tensor.shape):
            yield begin, rows, cols
            begin += rows * cols

    return dispatch.in_order(encoded, blocks())
