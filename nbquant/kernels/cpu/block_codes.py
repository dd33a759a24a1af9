"""Kernels between weights in blocks, their codes and the bytes of other libraries' formats.

Rows of the arrays are blocks. A code is a byte; its level is a value before scaling.
"""

import numpy as np

from nbquant.kernels.compiled import compiled

Array = np.ndarray

TRUNCATE, AWAY, EVEN = 0, 1, 2  # how halves are rounded


@compiled()
def extremes(weight: Array, least: Array, most: Array) -> None:
    """Find the least and the greatest weight of each block."""
    for b in range(weight.shape[0]):
        low, high = weight[b, 0], weight[b, 0]
        for j in range(1, weight.shape[1]):
            low = min(low, weight[b, j])
            high = max(high, weight[b, j])
        least[b] = low
        most[b] = high


@compiled()
def first_of_largest_magnitude(weight: Array, extreme: Array) -> None:
    """Find the weight of largest magnitude of each block, with its sign; the first of several."""
    for b in range(weight.shape[0]):
        most = np.float32(0.0)
        for j in range(weight.shape[1]):
            most = max(most, abs(weight[b, j]))
        found = weight[b, 0]
        for j in range(weight.shape[1]):
            if abs(weight[b, j]) == most:
                found = weight[b, j]
                break
        extreme[b] = found


@compiled()
def round_to_integers(
    weight: Array,
    scale: Array,
    divide: bool,
    minimum: Array,
    shift: Array,
    mode: int,
    low: float,
    high: float,
    out: Array,
) -> None:
    """Round scaled weights to integers, in float32 and in this order of operations.

    q = round((w − m) / s + z), or times s where that is the inverse scale

    Args:
        weight: Weights w, blocks × length.
        scale: Scale of each block, or its inverse.
        divide: Whether to divide by ``scale``; else to multiply by it.
        minimum: Minimum m of each block, or empty.
        shift: Shift z of each block or one for all, added before truncation (mode ``TRUNCATE``), after rounding else.
        mode: ``TRUNCATE``, ``AWAY`` (halves away from zero) or ``EVEN`` (halves to even).
        low: Least integer.
        high: Greatest integer.
        out: Output: the integers as bytes (two's complement where negative).
    """
    least, most = np.float32(low), np.float32(high)
    for b in range(weight.shape[0]):
        s = scale[b]
        m = minimum[b] if len(minimum) else np.float32(0.0)
        z = shift[b] if len(shift) > 1 else shift[0]
        for j in range(weight.shape[1]):
            x = weight[b, j] - m
            x = x / s if divide else x * s
            if mode == TRUNCATE:
                x = np.trunc(x + z)
            elif mode == AWAY:
                size = abs(x)
                whole = np.floor(size)
                x = np.copysign(whole + np.floor(np.float32(2.0) * (size - whole)), x) + z
            else:
                x = np.rint(x) + z
            out[b, j] = np.uint8(np.int32(min(max(x, least), most)))


@compiled()
def round_to_levels(weight: Array, inverse: Array, threshold: Array, code: Array, out: Array) -> None:
    """Round scaled weights to the nearest of a few levels: one comparison with each threshold, no branches.

    Args:
        weight: Weights, blocks × length.
        inverse: Inverse scale of each block.
        threshold: Thresholds between successive levels; a threshold itself belongs to the lower level.
        code: Code of each level, in increasing order of levels.
        out: Output: codes.
    """
    length = weight.shape[1]
    piece = 64
    scaled = np.empty(piece, np.float32)
    rank = np.empty(piece, np.int32)
    for b in range(weight.shape[0]):
        for start in range(0, length, piece):
            n = min(piece, length - start)
            for j in range(n):
                scaled[j] = weight[b, start + j] * inverse[b]
                rank[j] = 0
            for t in threshold:
                for j in range(n):
                    rank[j] += scaled[j] > t
            for j in range(n):
                out[b, start + j] = code[rank[j]]


@compiled()
def dequantize(
    codes: Array, level: Array, first: float, scale: Array, zero: Array, minimum: Array, groups: int, out: Array
) -> None:
    """Compute the weights that codes stand for, in float32 and in this order of operations.

    ŵ = s (level − z) + m, for each group of a block

    Args:
        codes: Codes, blocks × length.
        level: Level of each code, or empty where the levels are ``first``, ``first`` + 1, …
        first: Level of code 0.
        scale: Scale s of each group.
        zero: Zero point z of each group, or empty.
        minimum: Minimum m of each group, or empty.
        groups: Groups in a block.
        out: Output: weights, blocks × length.
    """
    length = codes.shape[1] // groups
    lowest = np.float32(first)
    for g in range(codes.shape[0] * groups):
        b, start = g // groups, g % groups * length
        s = scale[g]
        z = zero[g] if len(zero) else np.float32(0.0)
        if len(level):
            for j in range(start, start + length):
                out[b, j] = s * (level[codes[b, j]] - z)
        else:
            for j in range(start, start + length):
                out[b, j] = s * (np.float32(codes[b, j]) + lowest - z)
        if len(minimum):
            m = minimum[g]
            for j in range(start, start + length):
                out[b, j] += m


@compiled()
def gather_bits(codes: Array, shift: int, bits: int, stride: int, out: Array, offset: int) -> None:
    """Pack some bits of each code into the bytes of its block.

    Byte i of a run of ``stride`` bytes holds the codes i, i + stride, i + 2 stride, … of as many codes as fit, the
    first in its lowest bits. Bits below zero in number stand for the reverse order within a byte.

    Args:
        codes: Codes, blocks × length.
        shift: First bit of a code that is packed.
        bits: Number of bits of a code that are packed: 1, 2, 4 or 8; negative where the first code takes the highest.
        stride: Bytes of a run.
        out: Bytes of the blocks, blocks × size; these are overwritten.
        offset: First byte within a block.
    """
    width = abs(bits)
    per_byte = 8 // width
    mask = np.uint8((1 << width) - 1)
    for b in range(codes.shape[0]):
        for run in range(codes.shape[1] // (per_byte * stride)):
            at, start = offset + run * stride, run * per_byte * stride
            for i in range(stride):
                out[b, at + i] = 0
            for k in range(per_byte):
                left = width * (k if bits > 0 else per_byte - 1 - k)
                for i in range(stride):
                    out[b, at + i] |= np.uint8(((codes[b, start + k * stride + i] >> shift) & mask) << left)


@compiled()
def scatter_bits(data: Array, offset: int, shift: int, bits: int, stride: int, codes: Array) -> None:
    """Unpack some bits of each code from the bytes of its block; the inverse of :func:`gather_bits`.

    Codes with a ``shift`` of 0 are overwritten, others keep their lower bits.
    """
    width = abs(bits)
    per_byte = 8 // width
    mask = np.uint8((1 << width) - 1)
    for b in range(codes.shape[0]):
        for run in range(codes.shape[1] // (per_byte * stride)):
            at, start = offset + run * stride, run * per_byte * stride
            for k in range(per_byte):
                right = width * (k if bits > 0 else per_byte - 1 - k)
                first = start + k * stride
                if shift == 0:
                    for i in range(stride):
                        codes[b, first + i] = np.uint8((data[b, at + i] >> right) & mask)
                else:
                    for i in range(stride):
                        codes[b, first + i] |= np.uint8(((data[b, at + i] >> right) & mask) << shift)
