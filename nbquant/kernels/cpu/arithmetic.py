"""Kernels of static arithmetic coding: frequency tables as bits, and streams through 64-bit states.

All in integers. Streams may contain anything: nothing is read outside them. That frequencies sum to 2^``PRECISION`` is
ensured by :mod:`nbquant.coding.arithmetic`.
"""

import numpy as np
from jaxtyping import Int64, Integer, UInt8, UInt32

from nbquant.kernels.compiled import compiled

PRECISION = 24  # bits of a probability
LOWEST = 1 << 31  # states are from this to 2^63 − 1
LARGEST = 1 << 16  # largest root in the table
LONGEST = 40  # most bits of a root in the table

OK, TRUNCATED = 0, 1


@compiled()
def write_roots(roots: Int64[np.ndarray, " k"], bits: UInt8[np.ndarray, " b"]) -> int:
    """Write each root's change as an Exp-Golomb code whose order adapts to recent changes; returns the bits used.

    An empty ``bits`` only counts.
    """
    at, last, mean = 0, 0, 16
    for j in range(len(roots)):
        change = roots[j] - last
        value = 2 * change - 1 if change > 0 else -2 * change
        order = 0
        while mean >> (order + 5):
            order += 1
        shifted = value + (1 << order)
        digits = 0
        while shifted >> (digits + 1):
            digits += 1
        if len(bits):
            for i in range(digits - order):
                bits[at + i] = 1
            bits[at + digits - order] = 0
            for i in range(digits):
                bits[at + digits - order + 1 + i] = (shifted >> (digits - 1 - i)) & 1
        at += 2 * digits - order + 1
        mean += ((value << 4) - mean) // 4
        last = roots[j]
    return at


@compiled()
def read_roots(bits: UInt8[np.ndarray, " b"], roots: Int64[np.ndarray, " k"]) -> int:
    """Read roots; returns the bits used, −1 if the table ends early or a root exceeds ``LARGEST``."""
    at, last, mean = 0, 0, 16
    for j in range(len(roots)):
        order = 0
        while mean >> (order + 5):
            order += 1
        digits = order
        while at < len(bits) and bits[at]:
            digits += 1
            at += 1
            if digits > 20:
                return -1
        at += 1
        if at + digits > len(bits):
            return -1
        shifted = 1
        for _ in range(digits):
            shifted = 2 * shifted + bits[at]
            at += 1
        value = shifted - (1 << order)
        last += (value + 1) // 2 if value & 1 else -(value // 2)
        if last < 0 or last > LARGEST:
            return -1
        mean += ((value << 4) - mean) // 4
        roots[j] = last
    return at


@compiled()
def write_symbols(
    symbols: Integer[np.ndarray, " n"],
    frequency: Int64[np.ndarray, " k"],
    start: Int64[np.ndarray, " k"],
    states: Int64[np.ndarray, " lanes"],
    words: UInt32[np.ndarray, " w"],
) -> int:
    """Encode backwards from the last symbol and the end of ``words``; returns the start, −1 at an invalid symbol."""
    at, lanes = len(words), len(states)
    for i in range(len(symbols) - 1, -1, -1):
        symbol = np.int64(symbols[i])
        if symbol < 0 or symbol >= len(frequency) or frequency[symbol] == 0:
            return -1
        f = frequency[symbol]
        x = states[i & (lanes - 1)]
        if (x >> (63 - PRECISION)) >= f:
            at -= 1
            words[at] = x & 0xFFFFFFFF
            x >>= 32
        quotient = x // f
        states[i & (lanes - 1)] = (quotient << PRECISION) + (x - quotient * f) + start[symbol]
    return at


@compiled()
def read_symbols(
    words: UInt32[np.ndarray, " w"],
    states: Int64[np.ndarray, " lanes"],
    frequency: Int64[np.ndarray, " k"],
    start: Int64[np.ndarray, " k"],
    coarse: Int64[np.ndarray, " c"],
    shift: int,
    symbols: Integer[np.ndarray, " n"],
) -> tuple[int, int, int]:
    """Decode symbols; returns status, number of symbols and words read. ``coarse`` bounds the search of a symbol."""
    at, lanes = 0, len(states)
    for i in range(len(symbols)):
        x = states[i & (lanes - 1)]
        slot = x & ((1 << PRECISION) - 1)
        low, high = coarse[slot >> shift], coarse[(slot >> shift) + 1]
        while low < high:
            middle = (low + high + 1) >> 1
            if start[middle] <= slot:
                low = middle
            else:
                high = middle - 1
        x = frequency[low] * (x >> PRECISION) + slot - start[low]
        if x < LOWEST:
            if at == len(words):
                return TRUNCATED, i, at
            x = (x << 32) | np.int64(words[at])
            at += 1
        states[i & (lanes - 1)] = x
        symbols[i] = low
    return OK, len(symbols), at
