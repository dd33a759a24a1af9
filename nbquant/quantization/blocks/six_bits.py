"""Integers of six bits as GGUF's K-quants pack them: eight pairs, or sixteen, in twelve bytes."""

import numpy as np
from jaxtyping import UInt8

Bytes = UInt8[np.ndarray, "blocks 12"]
_LOW, _SIX = np.uint8(0x0F), np.uint8(0x3F)


def pack_8_pairs(scale: UInt8[np.ndarray, "blocks 8"], minimum: UInt8[np.ndarray, "blocks 8"]) -> Bytes:
    """Pack eight scales and eight minima.

    Four bytes of each hold the first four, six bits, below the two highest bits of the last four; four more bytes
    hold the lowest four bits of these, the scale's first.
    """
    first = [(values[:, :4] & _SIX) | (values[:, 4:] >> 4 << 6) for values in (scale, minimum)]
    return np.concatenate([*first, (scale[:, 4:] & _LOW) | (minimum[:, 4:] << 4)], axis=1)


def unpack_8_pairs(data: Bytes) -> tuple[UInt8[np.ndarray, "blocks 8"], UInt8[np.ndarray, "blocks 8"]]:
    """Unpack eight scales and eight minima; the inverse of :func:`pack_8_pairs`."""
    rest = data[:, 8:]
    scale, minimum = (
        np.concatenate([first & _SIX, low | (first >> 6 << 4)], axis=1)
        for first, low in ((data[:, :4], rest & _LOW), (data[:, 4:8], rest >> 4))
    )
    return scale, minimum


def pack_16(values: UInt8[np.ndarray, "blocks 16"]) -> Bytes:
    """Pack sixteen integers: the lowest four bits of i and i + 8 in byte i, the others of i, i + 4, … in byte 8 + i."""
    low = (values[:, :8] & _LOW) | (values[:, 8:] << 4)
    high = values.reshape(-1, 4, 4) >> 4 << np.array([0, 2, 4, 6], np.uint8)[:, None]
    return np.concatenate([low, np.bitwise_or.reduce(high, axis=1)], axis=1)


def unpack_16(data: Bytes) -> tuple[UInt8[np.ndarray, "blocks 16"]]:
    """Unpack sixteen integers; the inverse of :func:`pack_16`."""
    low = np.concatenate([data[:, :8] & _LOW, data[:, :8] >> 4], axis=1)
    high = (data[:, None, 8:] >> np.array([0, 2, 4, 6], np.uint8)[:, None]) & np.uint8(3)
    return (low | (high.reshape(-1, 16) << 4),)
