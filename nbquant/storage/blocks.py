"""Blocks of a quantized tensor as streams: positions of the weights, then their indices.

Each block is on its own, so that a tensor of any size is written and read in bounded memory, several blocks at once.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int, Shaped

from nbquant.coding.huffman import HuffmanCode
from nbquant.coding.ledger import fixed_length
from nbquant.coding.positions import GapCode
from nbquant.kernels import dispatch
from nbquant.kernels.cpu import blocks as kernels
from nbquant.storage.layout import StoredBlock, in_bytes

T = TypeVar("T")


def fixed_length_code(levels: int) -> HuffmanCode | None:
    """The code whose codewords are the indices, all of one length; None where that is 0.

    It has a codeword for every pattern of that length, so it may have more than ``levels``.
    """
    length = fixed_length(levels) if levels else 0
    return HuffmanCode(np.full(1 << length, length)) if length else None


def encode_block(
    assignment: Int[np.ndarray, " n"], block: StoredBlock, code: HuffmanCode | None, gap_code: GapCode | None
) -> bytes:
    """Both streams of a block.

    Args:
        assignment: Indices into the codebook; −1 where a weight is pruned.
        block: What the streams are to take.
        code: The code of the indices; None if they take no bits.
        gap_code: The code of the gaps; None if there are none to tell.
    """
    symbols, gaps = assignment, np.zeros(0, np.int16)
    if block.weights < block.entries:
        symbols = np.empty(block.weights, assignment.dtype)
        has_gaps = bool(block.positions) and gap_code is not None
        gaps = np.empty(block.weights + block.fillers if has_gaps else 0, np.int16)
        filled = kernels.split(assignment, gap_code.span if has_gaps and gap_code else 0, gaps, symbols)
        assert filled, "a block changed while it was written"
    positions = gap_code.code.encode(gaps) if len(gaps) and gap_code else b""
    payload = code.encode(symbols) if code is not None else b""
    assert len(positions) + len(payload) == block.size, "a block changed while it was written"
    return positions + payload


def decode_block(
    data: bytes,
    block: StoredBlock,
    code: HuffmanCode | None,
    gap_code: GapCode | None,
    values: Shaped[np.ndarray, " k"],
    pruned: int,
    out: Shaped[np.ndarray, " n"],
) -> None:
    """Read a block.

    Args:
        data: Both streams.
        block: What it is said to hold.
        code: The code of the indices; None if they take no bits.
        gap_code: The code of the gaps; None if there are none to tell.
        values: What an index stands for; at least one if the block has weights.
        pruned: What stands for a pruned weight.
        out: Receives a value for each entry.

    Raises:
        ValueError: Streams that are damaged or do not hold what they are said to.
    """
    if block.weights < block.entries:
        out.fill(pruned)
    if not block.weights:
        return
    border = in_bytes(block.positions)
    if code is None:
        symbols = np.zeros(block.weights, np.uint8)
    else:
        symbols = code.decode(data[border:], block.weights, block.payload)
        if len(code) > len(values) and symbols.max() >= len(values):
            raise ValueError(f"indices must be 0 to {len(values) - 1}, but go to {symbols.max()}.")
    if block.weights == block.entries:
        kernels.look_up(symbols, values, out)
        return
    if gap_code is None:
        raise ValueError("gaps need a code.")
    gaps = gap_code.code.decode(data[:border], block.weights + block.fillers, block.positions)
    status = kernels.place(gaps, gap_code.span, symbols, values, out)
    if status == kernels.OUT_OF_RANGE:
        raise ValueError(f"positions must be 0 to {block.entries - 1}, but the stream leads beyond.")
    if status == kernels.OTHER_COUNT:
        raise ValueError(f"{block.weights} positions are required, the last behind all fillers, but are not there.")


def in_order(work: Callable[..., T], items: Iterable[tuple[Any, ...]]) -> Iterator[T]:
    """What ``work`` makes of each item, in their order; a few are worked on at once, the others not yet asked for."""
    waiting: deque[Any] = deque()
    try:
        for item in items:
            waiting.append(dispatch.submit(work, *item))
            if len(waiting) > dispatch.THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for left in waiting:
            left.cancel()
