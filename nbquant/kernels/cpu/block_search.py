"""Kernels that compare candidate scales of blocks: the weighted error of each candidate.

Candidates are the innermost loop, ``LANES`` at a time, so that a processor's vector units work on several at once and
sums are the same on all of them. Errors are summed in units of the scale, where nothing underflows.
"""

import numpy as np

from nbquant.kernels.compiled import compiled

Array = np.ndarray

LANES = 16  # candidates compared at once: their number must be a multiple
_PIECE = 256  # weights whose errors are summed in float32


@compiled()
def integer_errors(
    weight: Array,
    sensitivity: Array,
    scale: Array,
    zero: Array,
    minimum: Array,
    low: float,
    high: float,
    error: Array,
) -> None:
    """Compute the error of each candidate scale for levels that are successive integers.

    E = Σ_j h_j (w_j − m − s q_j)²,  q_j = min(max(round((w_j − m) / s), low − z), high − z)

    Args:
        weight: Weights w, blocks × length.
        sensitivity: Sensitivities h, blocks × length.
        scale: Scales s, blocks × candidates, a multiple of ``LANES``; with a scale of 0 all weights become m.
        zero: Zero points z, blocks × candidates, or empty.
        minimum: Minima m, blocks × candidates, or empty.
        low: Least level.
        high: Greatest level.
        error: Output: E, blocks × candidates.
    """
    inverse = np.empty(LANES, np.float32)
    least = np.empty(LANES, np.float32)
    most = np.empty(LANES, np.float32)
    offset = np.zeros(LANES, np.float32)
    summed = np.empty(LANES, np.float32)
    shifted = minimum.size > 0
    for b in range(weight.shape[0]):
        row = weight[b]
        for first in range(0, scale.shape[1], LANES):
            scales, errors = scale[b, first : first + LANES], error[b, first : first + LANES]
            for c in range(LANES):
                inverse[c] = np.float32(1.0) / scales[c] if scales[c] != 0 else np.float32(0.0)
                z = zero[b, first + c] if zero.size else np.float32(0.0)
                least[c] = np.float32(low) - z
                most[c] = np.float32(high) - z
                if shifted:
                    offset[c] = minimum[b, first + c]
                errors[c] = 0.0
            for start in range(0, len(row), _PIECE):
                part, its_h = row[start : start + _PIECE], sensitivity[b, start : start + _PIECE]
                for c in range(LANES):
                    summed[c] = 0.0
                for j in range(len(part)):
                    w = part[j]
                    h = its_h[j]
                    for c in range(LANES):
                        x = (w - offset[c]) * inverse[c]
                        e = x - min(max(np.rint(x), least[c]), most[c])
                        summed[c] += h * (e * e)
                for c in range(LANES):
                    errors[c] += summed[c]
    _rescale(weight, sensitivity, scale, minimum, error)


@compiled()
def float_errors(
    weight: Array,
    sensitivity: Array,
    scale: Array,
    mantissa: int,
    exponent: int,
    most: float,
    error: Array,
) -> None:
    """Compute the error of each candidate scale for levels that are small floating-point numbers.

    Args:
        weight: Weights, blocks × length.
        sensitivity: Sensitivities, blocks × length.
        scale: Scales, blocks × candidates, a multiple of ``LANES``.
        mantissa: Bits of the mantissa.
        exponent: Exponent of the least normal number.
        most: Greatest number.
        error: Output: see :func:`integer_errors`.
    """
    inverse = np.empty(LANES, np.float32)
    summed = np.empty(LANES, np.float32)
    least_step = np.int32((exponent + 127) << 23)
    drop = np.int32(mantissa << 23)
    turn = np.int32(254 << 23)  # less the bits of a power of two: the bits of its inverse
    end = np.float32(most)
    for b in range(weight.shape[0]):
        row = weight[b]
        for first in range(0, scale.shape[1], LANES):
            scales, errors = scale[b, first : first + LANES], error[b, first : first + LANES]
            for c in range(LANES):
                inverse[c] = np.float32(1.0) / abs(scales[c]) if scales[c] != 0 else np.float32(0.0)
                errors[c] = 0.0
            for start in range(0, len(row), _PIECE):
                part, its_h = row[start : start + _PIECE], sensitivity[b, start : start + _PIECE]
                for c in range(LANES):
                    summed[c] = 0.0
                for j in range(len(part)):
                    w = abs(part[j])
                    h = its_h[j]
                    for c in range(LANES):
                        x = np.float32(w * inverse[c])
                        bits = np.int32(np.float32(x).view(np.int32) & np.int32(0x7F800000))
                        octave = np.int32(max(bits, least_step) - drop)
                        step, back = np.int32(octave).view(np.float32), np.int32(turn - octave).view(np.float32)
                        e = x - min(np.rint(x * back) * step, end)
                        summed[c] += h * (e * e)
                for c in range(LANES):
                    errors[c] += summed[c]
    _rescale(weight, sensitivity, scale, np.empty((0, 0), np.float32), error)


@compiled()
def level_errors(weight: Array, sensitivity: Array, scale: Array, threshold: Array, level: Array, error: Array) -> None:
    """Compute the error of each candidate scale for levels in a table.

    Args:
        weight: Weights, blocks × length.
        sensitivity: Sensitivities, blocks × length.
        scale: Scales, blocks × candidates.
        threshold: Thresholds between successive levels.
        level: Levels, increasing.
        error: Output: see :func:`integer_errors`.
    """
    length = weight.shape[1]
    scaled = np.empty(_PIECE, np.float32)
    nearest = np.empty(_PIECE, np.float32)
    for b in range(weight.shape[0]):
        for c in range(scale.shape[1]):
            s = scale[b, c]
            inverse = np.float32(1.0) / s if s != 0 else np.float32(0.0)
            total = np.float64(0.0)
            for start in range(0, length, _PIECE):
                part, its_h = weight[b, start : start + _PIECE], sensitivity[b, start : start + _PIECE]
                for j in range(len(part)):
                    scaled[j] = part[j] * inverse
                    nearest[j] = level[0]
                for t in range(len(threshold)):
                    boundary, above = threshold[t], level[t + 1]
                    for j in range(len(part)):
                        nearest[j] = above if scaled[j] > boundary else nearest[j]
                for j in range(len(part)):
                    e = scaled[j] - nearest[j]
                    scaled[j] = its_h[j] * (e * e)
                first, second, third, fourth = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
                whole = len(part) // 4 * 4
                for j in range(0, whole, 4):
                    first += scaled[j]
                    second += scaled[j + 1]
                    third += scaled[j + 2]
                    fourth += scaled[j + 3]
                for j in range(whole, len(part)):
                    first += scaled[j]
                total += np.float64((first + second) + (third + fourth))
            error[b, c] = total
    _rescale(weight, sensitivity, scale, np.empty((0, 0), np.float32), error)


@compiled()
def _rescale(weight: Array, sensitivity: Array, scale: Array, minimum: Array, error: Array) -> None:
    """Multiply errors by the squared scales; with a scale of zero every weight becomes the minimum."""
    for b in range(weight.shape[0]):
        for c in range(scale.shape[1]):
            if scale[b, c] != 0:
                error[b, c] *= np.float64(scale[b, c]) * np.float64(scale[b, c])
                continue
            m = minimum[b, c] if minimum.size else np.float32(0.0)
            total = 0.0
            for j in range(weight.shape[1]):
                e = np.float64(weight[b, j]) - m
                total += sensitivity[b, j] * e * e
            error[b, c] = total


@compiled()
def choose_least(error: Array, chosen: Array) -> None:
    """Choose the candidate of least error of each block, the first of several; one that is not finite never wins."""
    for b in range(error.shape[0]):
        errors = error[b]
        best, least = 0, np.inf
        for c in range(len(errors)):
            if errors[c] < least:
                best, least = c, errors[c]
        chosen[b] = best


@compiled()
def round_to_half(values: Array, out: Array) -> None:
    """Round to the nearest finite float16, by float32 arithmetic alone: 11 bits, or a multiple of 2⁻²⁴ if small.

    Halves may round to either side.
    """
    end, split = np.float32(65504), np.float32(1 + 2**13)
    least_normal, coarse = np.float32(2**-14), np.float32(0.75)
    for i in range(len(values)):
        v = min(max(values[i], -end), end)
        large = v * split
        rounded = large - (large - v)
        small = (v + coarse) - coarse
        out[i] = small if abs(v) < least_normal else rounded


@compiled()
def moments(weight: Array, sensitivity: Array, codes: Array, level: Array, sums: Array) -> None:
    """Sum the moments that a least-squares fit of scale and minimum needs.

    Args:
        weight: Weights w, groups × length.
        sensitivity: Sensitivities h, blocks × length.
        codes: Codes, groups × length.
        level: Level q of each code.
        sums: Output: Σh, Σhq, Σhq², Σhw, Σhqw of each group, groups × 5.
    """
    for g in range(weight.shape[0]):
        row, its_h, code = weight[g], sensitivity[g], codes[g]
        n, q1, q2, w1, qw = 0.0, 0.0, 0.0, 0.0, 0.0
        for j in range(len(row)):
            h, q, w = np.float64(its_h[j]), np.float64(level[code[j]]), np.float64(row[j])
            n += h
            q1 += h * q
            q2 += h * q * q
            w1 += h * w
            qw += h * q * w
        sums[g, 0], sums[g, 1], sums[g, 2], sums[g, 3], sums[g, 4] = n, q1, q2, w1, qw
