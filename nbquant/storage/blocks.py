"""Coding of tensor blocks as two streams: positions of the weights, then their indices.

Blocks are independent, so that a tensor of any size is written and read in bounded memory, several blocks in parallel.
"""

import struct

import numpy as np
import torch
from jaxtyping import Int, Shaped

from nbquant.coding.code import Code, SymbolCode
from nbquant.coding.levels import PRUNED, Alphabet
from nbquant.coding.positions import GapCode
from nbquant.kernels.cpu import blocks as kernels
from nbquant.quantization.codebook import Lattice
from nbquant.storage.layout import StoredBlock, StoredLattice, in_bytes


def encode_block(
    assignment: Int[np.ndarray, " n"], block: StoredBlock, code: SymbolCode | None, gap_code: GapCode | None
) -> bytes:
    """Encode both streams of a block.

    Args:
        assignment: Indices into the codebook; −1 for pruned weights.
        block: Sizes that the streams must have.
        code: Code of the indices; None if they take no bits.
        gap_code: Code of the gaps; None if there are none.
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
    if len(positions) + len(payload) != block.size:
        raise ValueError("indices must be those that were quantized, but were changed: quantize again.")
    return positions + payload


def decode_block(
    data: bytes,
    block: StoredBlock,
    code: SymbolCode | None,
    gap_code: GapCode | None,
    values: Shaped[np.ndarray, " k"],
    pruned: int,
    out: Shaped[np.ndarray, " n"],
) -> None:
    """Decode a block.

    Args:
        data: Both streams.
        block: Its header entry.
        code: Code of the indices; None if they take no bits.
        gap_code: Code of the gaps; None if there are none.
        values: Value of each index; at least one if the block has weights.
        pruned: Value of a pruned weight.
        out: Output: a value for each entry.

    Raises:
        ValueError: Streams that are damaged or contradict the header.
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
        raise ValueError(f"{block.weights} positions are required, the last after all fillers, but are not there.")


def decode_matrix(
    data: bytes,
    block: StoredBlock,
    alphabet: Alphabet,
    code: Code,
    shape: tuple[int, int],
    values: Shaped[np.ndarray, " k"],
    pruned: int,
    out: Shaped[np.ndarray, " n"],
) -> None:
    """Decode a block of an adaptive code.

    Args:
        data: Its stream.
        block: Its header entry.
        alphabet: Integers of the indices.
        code: The adaptive code.
        shape: Rows and columns of the block.
        values: Value of each index.
        pruned: Value of a pruned weight.
        out: Output: a value for each entry.

    Raises:
        ValueError: A stream that is damaged or contradicts the header.
    """
    index = alphabet.decode(data, *shape, code)
    weights = int((index != PRUNED).sum())
    if weights != block.weights:
        raise ValueError(f"{block.weights} weights are required, but {weights} are there.")
    np.append(values, np.array(pruned, values.dtype)).take(index, out=out, mode="wrap")  # PRUNED is the last


def read_lattice(data: bytes, stored: StoredLattice, levels: int) -> Lattice:
    """Read step and integers of a lattice codebook.

    Args:
        data: Stored bytes.
        stored: Its header entry.
        levels: Number of values.

    Raises:
        ValueError: A step that is not a finite number above 0; another number of integers, or another range.
    """
    (step,) = struct.unpack("<d", data[:8])
    if not 0 < step < float("inf"):
        raise ValueError(f"its step must be finite and above 0, but is {step}: write the file again.")
    bits = np.unpackbits(np.frombuffer(data, np.uint8, offset=8))
    used = np.flatnonzero(bits[: stored.span])
    whole = len(used) == levels and not bits[stored.span :].any()
    if not whole or (levels and (used[0] != 0 or used[-1] != stored.span - 1)) or bool(levels) != bool(stored.span):
        raise ValueError(f"{levels} integers must span {stored.span}, but do not: write the file again.")
    return Lattice(step, torch.from_numpy(used + stored.first), stored.dependent)
