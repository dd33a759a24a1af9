"""Kernels that compare candidate scales of blocks: the weighted error of each candidate.

Candidates are the innermost loop, so that a processor's vector units work on several at once and sums are the same on
all of them. Errors are summed in units of the scale, where nothing underflows.
"""

import numpy as np

from nbquant.kernels.compiled import compiled

Array = np.ndarray

_PIECE = 256  # weights whose errors are summed in float32


@compiled()
def integer_errors(
    weight: Array,
    sensitivity: Array,
    unit: float,
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
        sensitivity: Sensitivities h, or empty for 1.
        unit: What sensitivities are multiplied by.
        scale: Scales s, blocks × candidates; with a scale of 0 all weights become m.
        zero: Zero points z, blocks × candidates, or empty.
        minimum: Minima m, blocks × candidates, or empty.
        low: Least level.
        high: Greatest level.
        error: Output: E, blocks × candidates, in units of 1/``unit``.
    """
    candidates = scale.shape[1]
    inverse = np.empty(candidates, np.float32)
    least = np.empty(candidates, np.float32)
    most = np.empty(candidates, np.float32)
    offset = np.zeros(candidates, np.float32)
    summed = np.empty(candidates, np.float32)
    weighted, shifted = sensitivity.size > 0, minimum.size > 0
    for b in range(weight.shape[0]):
        for c in range(candidates):
            s = scale[b, c]
            inverse[c] = np.float32(1.0) / s if s != 0 else np.float32(0.0)
            z = zero[b, c] if zero.size else np.float32(0.0)
            least[c] = np.float32(low) - z
            most[c] = np.float32(high) - z
            if shifted:
                offset[c] = minimum[b, c]
            error[b, c] = 0.0
        for start in range(0, weight.shape[1], _PIECE):
            for c in range(candidates):
                summed[c] = 0.0
            for j in range(start, min(start + _PIECE, weight.shape[1])):
                w = weight[b, j]
                h = np.float32(sensitivity[b, j] * unit) if weighted else np.float32(1.0)
                for c in range(candidates):
                    x = (w - offset[c]) * inverse[c]
                    e = x - min(max(np.rint(x), least[c]), most[c])
                    summed[c] += h * (e * e)
            for c in range(candidates):
                error[b, c] += summed[c]
        for c in range(candidates):
            error[b, c] *= np.float64(scale[b, c]) * np.float64(scale[b, c])
    _errors_of_zero_scales(weight, sensitivity, unit, scale, minimum, error)


@compiled()
def float_errors(
    weight: Array,
    sensitivity: Array,
    unit: float,
    scale: Array,
    mantissa: int,
    exponent: int,
    most: float,
    error: Array,
) -> None:
    """Compute the error of each candidate scale for levels that are small floating-point numbers.

    Args:
        weight: Weights, blocks × length.
        sensitivity: Sensitivities, or empty for 1.
        unit: What sensitivities are multiplied by.
        scale: Scales, blocks × candidates.
        mantissa: Bits of the mantissa.
        exponent: Exponent of the least normal number.
        most: Greatest number.
        error: Output: see :func:`integer_errors`.
    """
    candidates = scale.shape[1]
    inverse = np.empty(candidates, np.float32)
    summed = np.empty(candidates, np.float32)
    scaled = np.empty(candidates, np.float32)
    steps = np.empty(2 * candidates, np.float32)
    bits, step_bits = scaled.view(np.int32), steps.view(np.int32)
    weighted = sensitivity.size > 0
    least_step = np.int32((exponent + 127) << 23)
    drop = np.int32(mantissa << 23)
    end = np.float32(most)
    for b in range(weight.shape[0]):
        for c in range(candidates):
            s = abs(scale[b, c])
            inverse[c] = np.float32(1.0) / s if s != 0 else np.float32(0.0)
            error[b, c] = 0.0
        for start in range(0, weight.shape[1], _PIECE):
            for c in range(candidates):
                summed[c] = 0.0
            for j in range(start, min(start + _PIECE, weight.shape[1])):
                w = abs(weight[b, j])
                h = np.float32(sensitivity[b, j] * unit) if weighted else np.float32(1.0)
                for c in range(candidates):
                    scaled[c] = w * inverse[c]
                for c in range(candidates):
                    octave = np.int32(max(np.int32(bits[c] & np.int32(0x7F800000)), least_step) - drop)
                    step_bits[c] = octave
                    step_bits[candidates + c] = np.int32(254 << 23) - octave
                for c in range(candidates):
                    x = scaled[c]
                    e = x - min(np.rint(x * steps[candidates + c]) * steps[c], end)
                    summed[c] += h * (e * e)
            for c in range(candidates):
                error[b, c] += summed[c]
        for c in range(candidates):
            error[b, c] *= np.float64(scale[b, c]) * np.float64(scale[b, c])
    _errors_of_zero_scales(weight, sensitivity, unit, scale, np.empty((0, 0), np.float32), error)


@compiled()
def level_errors(
    weight: Array, sensitivity: Array, unit: float, scale: Array, threshold: Array, level: Array, error: Array
) -> None:
    """Compute the error of each candidate scale for levels in a table.

    Args:
        weight: Weights, blocks × length.
        sensitivity: Sensitivities, or empty for 1.
        unit: What sensitivities are multiplied by.
        scale: Scales, blocks × candidates.
        threshold: Thresholds between successive levels.
        level: Levels, increasing.
        error: Output: see :func:`integer_errors`.
    """
    candidates = scale.shape[1]
    inverse = np.empty(candidates, np.float32)
    summed = np.empty(candidates, np.float32)
    scaled = np.empty(candidates, np.float32)
    nearest = np.empty(candidates, np.float32)
    weighted = sensitivity.size > 0
    for b in range(weight.shape[0]):
        for c in range(candidates):
            s = scale[b, c]
            inverse[c] = np.float32(1.0) / s if s != 0 else np.float32(0.0)
            error[b, c] = 0.0
        for start in range(0, weight.shape[1], _PIECE):
            for c in range(candidates):
                summed[c] = 0.0
            for j in range(start, min(start + _PIECE, weight.shape[1])):
                w = weight[b, j]
                h = np.float32(sensitivity[b, j] * unit) if weighted else np.float32(1.0)
                for c in range(candidates):
                    scaled[c] = w * inverse[c]
                    nearest[c] = level[0]
                for t in range(len(threshold)):
                    boundary, above = threshold[t], level[t + 1]
                    for c in range(candidates):
                        nearest[c] = above if scaled[c] > boundary else nearest[c]
                for c in range(candidates):
                    e = scaled[c] - nearest[c]
                    summed[c] += h * (e * e)
            for c in range(candidates):
                error[b, c] += summed[c]
        for c in range(candidates):
            error[b, c] *= np.float64(scale[b, c]) * np.float64(scale[b, c])
    _errors_of_zero_scales(weight, sensitivity, unit, scale, np.empty((0, 0), np.float32), error)


@compiled()
def _errors_of_zero_scales(
    weight: Array, sensitivity: Array, unit: float, scale: Array, minimum: Array, error: Array
) -> None:
    """Compute the error of candidates with a scale of zero: every weight becomes the minimum."""
    for b in range(weight.shape[0]):
        for c in range(scale.shape[1]):
            if scale[b, c] != 0:
                continue
            m = minimum[b, c] if minimum.size else np.float32(0.0)
            total = 0.0
            for j in range(weight.shape[1]):
                e = np.float64(weight[b, j]) - m
                total += (sensitivity[b, j] * unit if sensitivity.size else 1.0) * e * e
            error[b, c] = total


@compiled()
def moments(
    weight: Array, sensitivity: Array, unit: float, codes: Array, level: Array, groups: int, sums: Array
) -> None:
    """Sum the moments that a least-squares fit of scale and minimum needs, for each group of a block.

    Args:
        weight: Weights w, blocks × length.
        sensitivity: Sensitivities h, or empty for 1.
        unit: What sensitivities are multiplied by.
        codes: Codes, blocks × length.
        level: Level q of each code.
        groups: Groups in a block.
        sums: Output: Σh, Σhq, Σhq², Σhw, Σhqw of each group, groups × 5.
    """
    length = weight.shape[1] // groups
    weighted = sensitivity.size > 0
    for g in range(weight.shape[0] * groups):
        b, start = g // groups, g % groups * length
        n, q1, q2, w1, qw = 0.0, 0.0, 0.0, 0.0, 0.0
        for j in range(start, start + length):
            h = np.float64(sensitivity[b, j] * unit) if weighted else 1.0
            q, w = np.float64(level[codes[b, j]]), np.float64(weight[b, j])
            n += h
            q1 += h * q
            q2 += h * q * q
            w1 += h * w
            qw += h * q * w
        sums[g, 0], sums[g, 1], sums[g, 2], sums[g, 3], sums[g, 4] = n, q1, q2, w1, qw
