"""Integers of a few bits packed into words of 32 bits."""

import numpy as np
from jaxtyping import Int32, UInt8

from nbquant.kernels.cpu import block_codes as kernels

WORD = 32
_PIECE = 1 << 20  # integers packed at a time


def unpack_stream(words: Int32[np.ndarray, "rows words"], bits: int) -> UInt8[np.ndarray, "rows integers"]:
    """Unpack rows of unsigned integers that follow one another without a gap, the first in the lowest bits.

    Args:
        words: Words; integers may run from one into the next.
        bits: Bits of an integer, 1 to 8.
    """
    data = np.array(words, "<i4", order="C").view(np.uint8)
    if bits == 8:
        return data
    if 8 % bits == 0:
        return unpack_bytes(data, bits)
    if bits == 3 and data.shape[1] % 3 == 0:
        three = data.reshape(len(data), -1, 3).astype(np.uint32)
        eight = three[:, :, 0] | three[:, :, 1] << 8 | three[:, :, 2] << 16
        return np.stack([(eight >> 3 * k).astype(np.uint8) & 7 for k in range(8)], axis=2).reshape(len(data), -1)
    single = np.unpackbits(data, axis=1, bitorder="little")
    single = single[:, : single.shape[1] // bits * bits].reshape(len(data), -1, bits)
    return np.packbits(single, axis=2, bitorder="little")[:, :, 0]


def unpack_bytes(data: UInt8[np.ndarray, "rows bytes"], bits: int) -> UInt8[np.ndarray, "rows integers"]:
    """Unpack rows of unsigned integers of 1, 2, 4 or 8 bits, the first in the lowest bits of a byte."""
    if bits == 8:
        return data
    codes = np.empty((len(data), data.shape[1] * 8 // bits), np.uint8)
    kernels.scatter_bits(np.ascontiguousarray(data), 0, 0, bits, 1, codes)
    return codes


def unpack_range(data: UInt8[np.ndarray, " bytes"], bits: int, first: int, last: int) -> UInt8[np.ndarray, " n"]:
    """Unpack some of the unsigned integers of less than 8 bits that follow one another without a gap."""
    begin = first // 8 * 8  # eight of them end with a byte
    part = data[begin * bits // 8 : -(-last * bits // 8)]
    if 8 % bits == 0:
        return unpack_bytes(part.reshape(1, -1), bits)[0, first - begin : last - begin]
    flat = np.unpackbits(part, bitorder="little")
    single = flat[: len(flat) // bits * bits].reshape(-1, bits)
    return np.packbits(single, axis=1, bitorder="little")[first - begin : last - begin, 0]


def unpack_nibbles(data: UInt8[np.ndarray, "rows bytes"], high_first: bool = False) -> UInt8[np.ndarray, "rows codes"]:
    """Unpack rows of integers of four bits, two in a byte, the first in the lower or the higher bits."""
    codes = np.empty((len(data), 2 * data.shape[1]), np.uint8)
    kernels.scatter_bits(np.ascontiguousarray(data), 0, 0, -4 if high_first else 4, 1, codes)
    return codes


def as_codes(integers: UInt8[np.ndarray, "..."], bits: int) -> UInt8[np.ndarray, "..."]:
    """Convert unsigned integers, whose middle stands for 0, to codes of our integer formats.

    Codes of eight bits are in two's complement; others start at the least integer.
    """
    return integers ^ np.uint8(0x80) if bits == 8 else integers


def unpack_words(words: Int32[np.ndarray, "rows words"], bits: int) -> UInt8[np.ndarray, "rows integers"]:
    """Unpack rows of unsigned integers of which each word holds as many as fit, the first in the lowest bits.

    Args:
        words: Words; bits that hold no whole integer are skipped.
        bits: Bits of an integer, 1 to 8.
    """
    if WORD % bits == 0:
        return unpack_stream(words, bits)
    each = WORD // bits
    by_word = unpack_stream(np.ascontiguousarray(words).reshape(-1, 1), bits)[:, :each]
    return by_word.reshape(len(words), -1)


def pack_stream(integers: UInt8[np.ndarray, "rows integers"], bits: int) -> Int32[np.ndarray, "rows words"]:
    """Pack rows of unsigned integers one after another, the first in the lowest bits; the inverse of unpack_stream."""
    count = integers.shape[1]
    words = np.zeros((len(integers), -(-count * bits // WORD) * WORD // 8), np.uint8)
    step = max(1, _PIECE // max(count, 1))
    for first in range(0, len(integers), step):
        rows = np.ascontiguousarray(integers[first : first + step])
        single = np.unpackbits(rows[:, :, None], axis=2, count=bits, bitorder="little").reshape(len(rows), -1)
        data = np.packbits(single, axis=1, bitorder="little")
        words[first : first + step, : data.shape[1]] = data
    return words.view("<i4")
