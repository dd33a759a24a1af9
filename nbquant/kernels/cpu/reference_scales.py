"""Kernels of ggml's reference encoders, which fit a scale to codes: float32 sums in the order in which ggml adds.

The methods are those published with llama.cpp: try a few scales, fit each to its codes by least squares, keep the best.
"""

import numpy as np

from nbquant.kernels.compiled import compiled

Array = np.ndarray

NEGLIGIBLE = 1e-15  # largest magnitude below which a group is zero
BY_MAGNITUDE, BY_MAGNITUDE_AND_MEAN = 0, 1  # weights of the errors: |w|, or |w| plus the root mean square

_ZERO, _ONE = np.float32(0), np.float32(1)
_TENTH = np.float32(0.1)
_SIDE_STEPS = 9  # scales tried on either side of the first
_MOST_PASSES = 5


@compiled()
def fit_by_square(weight: Array, codes: Array, level: Array, scale: Array) -> None:
    """Fit the scale of each block to its codes by least squares, each weight weighted by its square.

    s = Σ w² q w / Σ w² q²

    Args:
        weight: Weights w, blocks × length.
        codes: Codes, blocks × length.
        level: Level q of each code.
        scale: Output; 0 where the sums vanish.
    """
    for b in range(weight.shape[0]):
        product, square = _ZERO, _ZERO
        for j in range(weight.shape[1]):
            w, q = weight[b, j], level[codes[b, j]]
            product += w * w * q * w
            square += w * w * q * q
        scale[b] = product / square if square != 0 else _ZERO


@compiled()
def fit_ranges(
    weight: Array,
    importance: int,
    high: int,
    start: float,
    steps: int,
    absolute: bool,
    scale: Array,
    minimum: Array,
    codes: Array,
) -> None:
    """Fit scale and minimum of each group: of several inverse scales, the one whose least-squares line errs least.

    The minimum is not above 0.

    Args:
        weight: Weights, groups × length.
        importance: How errors are weighted: ``BY_MAGNITUDE`` or ``BY_MAGNITUDE_AND_MEAN``.
        high: Greatest level.
        start: First inverse scale tried, as a number of levels more than ``high`` over the range; further ones follow
            at 0.1.
        steps: Number of further inverse scales.
        absolute: Whether absolute errors are summed; else squares.
        scale: Output.
        minimum: Output: minus the minimum.
        codes: Output: levels; they hold where a stored scale is zero.
    """
    length = weight.shape[1]
    trial = np.empty(length, np.float32)
    weighting = np.empty(length, np.float32)
    top, first, count = np.float32(high), np.float32(start), np.float32(length)
    for g in range(weight.shape[0]):
        x, out = weight[g], codes[g]
        squares = _ZERO
        for j in range(length):
            squares += x[j] * x[j]
        mean = np.sqrt(squares / count) if importance == BY_MAGNITUDE_AND_MEAN else _ZERO
        low, most = x[0], x[0]
        for j in range(length):
            weighting[j] = mean + abs(x[j])
            low, most = min(low, x[j]), max(most, x[j])
        total, total_x = weighting[0], weighting[0] * x[0]
        for j in range(1, length):
            total += weighting[j]
            total_x += weighting[j] * x[j]
        low = min(low, _ZERO)
        if most == low:
            scale[g], minimum[g] = _ZERO, -low
            out[:] = 0
            continue
        inverse = np.float32(top / (most - low))
        best_scale, least = np.float32(_ONE / inverse), _ZERO
        for j in range(length):
            level = min(max(np.rint(inverse * (x[j] - low)), _ZERO), top)
            out[j] = np.uint8(level)
            error = best_scale * level + low - x[j]
            least += weighting[j] * (abs(error) if absolute else error * error)
        for step in range(steps + 1):
            # From the fit that is best so far, not from the least weight.
            inverse = np.float32((first + _TENTH * np.float32(step) + top) / (most - low))
            sum_q, sum_qq, sum_xq = _ZERO, _ZERO, _ZERO
            for j in range(length):
                level = min(max(np.rint(inverse * (x[j] - low)), _ZERO), top)
                trial[j] = level
                sum_q += weighting[j] * level
                sum_qq += weighting[j] * level * level
                sum_xq += weighting[j] * level * x[j]
            determinant = total * sum_qq - sum_q * sum_q
            if determinant <= 0:
                continue
            slope = np.float32((total * sum_xq - total_x * sum_q) / determinant)
            offset = np.float32((sum_qq * total_x - sum_q * sum_xq) / determinant)
            if offset > 0:
                offset, slope = _ZERO, np.float32(sum_xq / sum_qq)
            summed = _ZERO
            for j in range(length):
                error = slope * trial[j] + offset - x[j]
                summed += weighting[j] * (abs(error) if absolute else error * error)
            if summed < least:
                least, best_scale, low = summed, slope, offset
                for j in range(length):
                    out[j] = np.uint8(trial[j])
        scale[g], minimum[g] = best_scale, -low


@compiled()
def fit_scales(weight: Array, half: int, scale: Array, codes: Array) -> None:
    """Fit the scale of each group for levels from −``half``: of 19 inverse scales, the one of the best fit.

    Args:
        weight: Weights, groups × length; errors are weighted by their squares.
        half: Number of negative levels.
        scale: Output; 0 for a group that is zero.
        codes: Output: levels + ``half``, or 0 for a group that is zero.
    """
    top = np.float32(half)
    for g in range(weight.shape[0]):
        x, out = weight[g], codes[g]
        extreme = _extreme(x)
        scale[g] = _ZERO
        if abs(extreme) < NEGLIGIBLE:
            out[:] = 0
            continue
        best = _ZERO
        for step in range(2 * _SIDE_STEPS + 2):
            # The middle one first, then from one side to the other.
            side = 0 if step == 0 else step - 1 - _SIDE_STEPS
            if step > 0 and side == 0:
                continue
            inverse = np.float32(-(top + _TENTH * np.float32(side)) / extreme)
            product, square = _ZERO, _ZERO
            for j in range(len(x)):
                level = min(max(np.rint(inverse * x[j]), -top), top - _ONE)
                product += x[j] * x[j] * x[j] * level
                square += x[j] * x[j] * level * level
            if step == 0 or (square > 0 and product * product > best * square):
                scale[g] = product / square if square != 0 else _ZERO
                best = scale[g] * product
                for j in range(len(x)):
                    out[j] = np.uint8(min(max(np.rint(inverse * x[j]), -top), top - _ONE) + top)


@compiled()
def fit_scales_by_descent(weight: Array, half: int, scale: Array, codes: Array) -> None:
    """Fit the scale of each group for levels from −``half``: levels change one at a time while the fit improves.

    Args:
        weight: See :func:`fit_scales`.
        half: See :func:`fit_scales`.
        scale: See :func:`fit_scales`.
        codes: See :func:`fit_scales`.
    """
    top = np.float32(half)
    levels = np.empty(weight.shape[1], np.float32)
    for g in range(weight.shape[0]):
        x, out = weight[g], codes[g]
        extreme = _extreme(x)
        scale[g] = _ZERO
        if abs(extreme) < NEGLIGIBLE:
            out[:] = 0
            continue
        inverse = np.float32(-top / extreme)
        product, square = _ZERO, _ZERO
        for j in range(len(x)):
            levels[j] = min(max(np.rint(inverse * x[j]), -top), top - _ONE)
            product += x[j] * x[j] * x[j] * levels[j]
            square += x[j] * x[j] * levels[j] * levels[j]
        for _ in range(_MOST_PASSES):
            changed = False
            for j in range(len(x)):
                w = x[j] * x[j]
                without = product - w * x[j] * levels[j]
                if without <= 0:
                    continue
                its_square = square - w * levels[j] * levels[j]
                level = min(max(np.rint(x[j] * its_square / without), -top), top - _ONE)
                if level == levels[j]:
                    continue
                without += w * x[j] * level
                its_square += w * level * level
                if its_square > 0 and without * without * square > product * product * its_square:
                    levels[j], product, square, changed = level, without, its_square, True
            if not changed:
                break
        for j in range(len(x)):
            out[j] = np.uint8(levels[j] + top)
        scale[g] = product / square if square > 0 else _ZERO


@compiled()
def _extreme(x: Array) -> np.float32:
    """The weight of largest magnitude, with its sign; the first of several."""
    most, found = _ZERO, _ZERO
    for j in range(len(x)):
        if abs(x[j]) > most:
            most, found = abs(x[j]), x[j]
    return found
