"""Kernels between weights in blocks, their codes and the bytes of other libraries' formats.

Rows of the arrays are blocks. A code is a byte; its level is a value before scaling. Inner loops run over slices from
their first element, which lets the compiler use vector units.
"""

import numpy as np

from nbquant.kernels.compiled import compiled

Array = np.ndarray

TRUNCATE, AWAY, EVEN, SHIFTED = 0, 1, 2, 3  # how halves are rounded

_PIECE = 1024  # weights rounded to levels at a time


@compiled()
def extremes(weight: Array, least: Array, most: Array) -> None:
    """Find the least and the greatest weight of each block."""
    for b in range(weight.shape[0]):
        row = weight[b]
        low, high = row[0], row[0]
        for j in range(len(row)):
            low = min(low, row[j])
            high = max(high, row[j])
        least[b] = low
        most[b] = high


@compiled()
def largest_magnitudes(bits: Array, extreme: Array) -> None:
    """Find the weight of largest magnitude of each block, with its sign; the first of several.

    Works on the bits of float32: magnitudes are ordered like them, and a maximum of integers is fast.

    Args:
        bits: Weights as int32, blocks × length.
        extreme: Output: bits of the weight found.
    """
    magnitude = np.int32(0x7FFFFFFF)
    for b in range(bits.shape[0]):
        row = bits[b]
        positive, negative = np.int32(0), np.int32(0)
        for j in range(len(row)):
            sign = np.int32(row[j] >> 31)  # all ones below zero
            positive = max(positive, row[j])
            negative = max(negative, np.int32(row[j] & magnitude & sign))
        if negative == positive:
            for j in range(len(row)):
                if np.int32(row[j] & magnitude) == positive:
                    extreme[b] = row[j]
                    break
        else:
            extreme[b] = positive if positive > negative else np.int32(negative | ~magnitude)


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
        shift: Shift z of each block or one for all, added before ``TRUNCATE`` and ``SHIFTED``, and after the others.
        mode: ``TRUNCATE``, ``AWAY`` (halves away from zero), ``EVEN`` or ``SHIFTED`` (halves to even).
        low: Least integer.
        high: Greatest integer.
        out: Output: the integers as bytes (two's complement where negative).
    """
    least, most = np.float32(low), np.float32(high)
    for b in range(weight.shape[0]):
        s = scale[b]
        m = minimum[b] if len(minimum) else np.float32(0.0)
        z = shift[b] if len(shift) > 1 else shift[0]
        row, to = weight[b], out[b]
        for j in range(len(row)):
            x = row[j] - m
            x = x / s if divide else x * s
            if mode == TRUNCATE:
                x = np.trunc(x + z)
            elif mode == AWAY:
                size = abs(x)
                whole = np.floor(size)
                x = np.copysign(whole + np.floor(np.float32(2.0) * (size - whole)), x) + z
            elif mode == EVEN:
                x = np.rint(x) + z
            else:
                x = np.rint(x + z)
            to[j] = np.uint8(np.int32(min(max(x, least), most)))


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
    scaled = np.empty(_PIECE + length, np.float32)
    rank = np.empty(_PIECE + length, np.int32)
    flat = out.reshape(-1)
    many = max(1, _PIECE // length)
    for first in range(0, weight.shape[0], many):
        blocks = min(many, weight.shape[0] - first)
        for b in range(blocks):
            row, to, s = weight[first + b], scaled[b * length : (b + 1) * length], inverse[first + b]
            for j in range(len(row)):
                to[j] = row[j] * s
        n = blocks * length
        for j in range(n):
            rank[j] = 0
        for t in threshold:
            for j in range(n):
                rank[j] += np.int32(1) if scaled[j] > t else np.int32(0)
        coded = flat[first * length : first * length + n]
        for j in range(len(coded)):
            coded[j] = code[rank[j]]


@compiled()
def round_to_floats(
    weight: Array,
    scale: Array,
    mantissa: int,
    exponent: int,
    greatest: int,
    sign: int,
    bits: Array,
    out: Array,
) -> None:
    """Round scaled weights to small floating-point numbers, halves to even; too large ones become the greatest.

    A weight of −0 becomes +0, but a small negative one that rounds to zero becomes −0.

    Args:
        weight: Weights, blocks × length.
        scale: Scale of each block, by which weights are divided.
        mantissa: Bits of the mantissa.
        exponent: Exponent of the least normal number.
        greatest: Code of the greatest number.
        sign: Code of −0.
        bits: Scratch memory: int32, as many as there are weights in a block.
        out: Output: codes.
    """
    scaled, integers = bits.view(np.float32), bits
    most = np.float32(256)  # more than any mantissa; infinity must not become an integer
    least_octave = np.int32((exponent + 127) << 23)
    drop = np.int32(mantissa << 23)
    for b in range(weight.shape[0]):
        row, s, to = weight[b], scale[b], out[b]
        for j in range(len(row)):
            scaled[j] = row[j] / s + np.float32(0.0)
        for j in range(len(row)):
            magnitude = np.int32(integers[j] & np.int32(0x7FFFFFFF))
            octave = np.int32(max(np.int32(magnitude & np.int32(0x7F800000)), least_octave))
            above = np.int32(octave - least_octave) >> (23 - mantissa)
            step = np.int32(np.int32(254 << 23) - np.int32(octave - drop))
            size = np.rint(abs(scaled[j]) * np.int32(step).view(np.float32))
            code = min(np.int32(size if size < most else most) + above, np.int32(greatest))
            to[j] = np.uint8(code + (sign if integers[j] < 0 else 0))


@compiled()
def dequantize(
    codes: Array, level: Array, first: float, flip: int, scale: Array, zero: Array, minimum: Array, out: Array
) -> None:
    """Compute the weights that codes stand for, in float32 and in this order of operations.

    ŵ = s (level − z) + m

    Args:
        codes: Codes, groups × length.
        level: Level of each code, or empty where the levels are ``first``, ``first`` + 1, …
        first: Level of code 0.
        flip: Bits of a code that are inverted before; 128 for bytes in two's complement.
        scale: Scale s of each group.
        zero: Zero point z of each group, or empty.
        minimum: Minimum m of each group, or empty.
        out: Output: weights, groups × length.
    """
    if len(level) == 0 and len(minimum) == 0 and len(zero) == 0:  # the fewest steps, for the simplest formats
        lowest = np.float32(first)
        for g in range(codes.shape[0]):
            code, to, s = codes[g], out[g], scale[g]
            for j in range(len(code)):
                to[j] = s * (np.float32(np.uint8(code[j] ^ flip)) + lowest)
        return
    for g in range(codes.shape[0]):
        code, to, s = codes[g], out[g], scale[g]
        z = zero[g] if len(zero) else np.float32(0.0)
        m = minimum[g] if len(minimum) else np.float32(-0.0)  # adding −0 changes nothing
        if len(level):
            for j in range(len(code)):
                to[j] = s * (level[code[j]] - z) + m
        else:
            lowest = np.float32(first) - z
            for j in range(len(code)):
                to[j] = s * (np.float32(np.uint8(code[j] ^ flip)) + lowest) + m


@compiled()
def dequantize_pairs(data: Array, pairs: Array, scale: Array, words: Array, out: Array) -> None:
    """Compute the weights of bytes that hold two codes each, which are neighbours: ŵ = s · level.

    Args:
        data: Bytes, blocks × length/2.
        pairs: Levels of both codes of each of 256 bytes, two float32 as one int64.
        scale: Scale s of each block.
        words: The memory of ``out`` as int64, blocks × length/2.
        out: Output: weights, blocks × length.
    """
    for b in range(data.shape[0]):
        packed, word, to, s = data[b], words[b], out[b], scale[b]
        for i in range(len(packed)):
            word[i] = pairs[packed[i]]
        for j in range(len(to)):
            to[j] *= s


@compiled()
def gather_bits(codes: Array, shift: int, bits: int, stride: int, out: Array, offset: int) -> None:
    """Pack some bits of each code into the bytes of its block.

    Byte i of a run of ``stride`` bytes holds the codes i, i + stride, i + 2 stride, … of as many codes as fit, the
    first in its lowest bits.

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
    runs = codes.shape[1] // (per_byte * stride)
    for b in range(codes.shape[0]):
        row, to = codes[b], out[b]
        if stride == 1:  # codes of a byte are neighbours
            packed = to[offset : offset + runs]
            if bits == 4:
                for i in range(len(packed)):
                    packed[i] = ((row[2 * i] >> shift) & mask) | ((row[2 * i + 1] >> shift) & mask) << 4
                continue
            if bits == 1:
                for i in range(len(packed)):
                    byte = 0
                    for k in range(8):
                        byte |= ((row[8 * i + k] >> shift) & 1) << k
                    packed[i] = np.uint8(byte)
                continue
            for k in range(per_byte):
                left = (width * (k if bits > 0 else per_byte - 1 - k)) & 7
                for i in range(len(packed)):
                    value = ((row[i * per_byte + k] >> shift) & mask) << left
                    packed[i] = value if k == 0 else packed[i] | value
            continue
        for run in range(runs):
            packed = to[offset + run * stride : offset + (run + 1) * stride]
            if bits == 4:
                lower = row[2 * run * stride : (2 * run + 1) * stride]
                upper = row[(2 * run + 1) * stride : (2 * run + 2) * stride]
                for i in range(len(packed)):
                    packed[i] = ((lower[i] >> shift) & mask) | ((upper[i] >> shift) & mask) << 4
                continue
            for k in range(per_byte):
                left = (width * (k if bits > 0 else per_byte - 1 - k)) & 7
                start = (run * per_byte + k) * stride
                part = row[start : start + stride]
                for i in range(len(packed)):
                    value = ((part[i] >> shift) & mask) << left
                    packed[i] = value if k == 0 else packed[i] | value


@compiled()
def scatter_bits(data: Array, offset: int, shift: int, bits: int, stride: int, codes: Array) -> None:
    """Unpack some bits of each code from the bytes of its block; the inverse of :func:`gather_bits`.

    Codes with a ``shift`` of 0 are overwritten, others keep their lower bits.
    """
    width = abs(bits)
    per_byte = 8 // width
    mask = np.uint8((1 << width) - 1)
    left = shift & 7
    runs = codes.shape[1] // (per_byte * stride)
    for b in range(codes.shape[0]):
        row, source = codes[b], data[b]
        if stride == 1:
            packed = source[offset : offset + runs]
            if bits == 1 and shift > 0:
                for i in range(len(packed)):
                    eight = row[8 * i : 8 * i + 8]
                    for k in range(8):
                        eight[k] |= ((packed[i] >> k) & 1) << left
                continue
            for k in range(per_byte):
                right = (width * (k if bits > 0 else per_byte - 1 - k)) & 7
                for i in range(len(packed)):
                    value = ((packed[i] >> right) & mask) << left
                    at = i * per_byte + k
                    row[at] = value if shift == 0 else row[at] | value
            continue
        for run in range(runs):
            packed = source[offset + run * stride : offset + (run + 1) * stride]
            for k in range(per_byte):
                right = (width * (k if bits > 0 else per_byte - 1 - k)) & 7
                start = (run * per_byte + k) * stride
                part = row[start : start + stride]
                if shift == 0:
                    for i in range(len(packed)):
                        part[i] = ((packed[i] >> right) & mask) << left
                else:
                    for i in range(len(packed)):
                        part[i] |= ((packed[i] >> right) & mask) << left
