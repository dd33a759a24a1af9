"""Search for the stored scale and minimum of least weighted error.

Both are rounded to their stored type first, then codes are chosen for them.
"""

import numpy as np
from jaxtyping import Float32, Float64

from nbquant.kernels.cpu import block_search
from nbquant.quantization.blocks.extremes import ranges
from nbquant.quantization.blocks.grid import NONE_2, Blocks, IntegerGrid
from nbquant.quantization.blocks.scale_search import NEAR, Rounding, least_error, pieces

PerBlock = Float32[np.ndarray, " blocks"]

_SHARES = (0, -0.03, 0.04, 0.1)
_CUT = np.array([(low, high) for low in _SHARES for high in _SHARES], np.float32).T
"""Shares of the range that are cut off below and above."""


def best_ranges(
    weight: Blocks,
    sensitivity: Blocks | None,
    grid: IntegerGrid,
    rounding: Rounding,
    refinements: int = 2,
    to_zero: bool = False,
) -> tuple[PerBlock, PerBlock]:
    """Search for the scale s and minimum m of least Σ h (w − s q − m)² of each block, both of the stored type.

    First ranges are compared that cut off some of the extreme weights, then the least-squares fit to the best codes
    so far.

    Args:
        weight: Weights w.
        sensitivity: Sensitivities h; None: all 1.
        grid: Integers from 0.
        rounding: Rounds to the stored type.
        refinements: How often the least-squares fit is tried.
        to_zero: Whether minima must not be above 0.
    """
    scale, minimum = np.empty((2, len(weight)), np.float32)
    for part, w, h in pieces(weight, sensitivity):
        scale[part], minimum[part] = _best_of_piece(w, h, grid, rounding, refinements, to_zero)
    return scale, minimum


def _best_of_piece(
    weight: Blocks, h: Blocks, grid: IntegerGrid, rounding: Rounding, refinements: int, to_zero: bool
) -> tuple[PerBlock, PerBlock]:
    least, most = ranges(weight)
    span = most / 2 - least / 2  # halved, so that it is finite
    if to_zero:
        least = np.minimum(least, 0)
        span = most / 2 - least / 2
    low = least[:, None] + 2 * span[:, None] * _CUT[0]
    if to_zero:
        low = np.minimum(low, 0)
    high = most[:, None] - 2 * span[:, None] * _CUT[1]
    scales, minima = rounding((high / 2 - low / 2) * np.float32(2 / grid.high)), rounding(low)
    (scale, minimum), error = least_error((scales, minima), grid.errors(weight, h, scales, NONE_2, minima))
    for _ in range(refinements):
        sums = fit_sums(weight, h, grid.codes(weight, scale, minimum=minimum), grid)
        fitted, offset = least_squares_line(sums, scale, minimum)
        if to_zero:
            offset = np.minimum(offset, 0)
        minima = np.repeat(rounding(offset)[:, None], len(NEAR), 1)
        # The scale once more, for the rounded minimum.
        with np.errstate(divide="ignore", invalid="ignore"):
            again = (sums[:, 4] - sums[:, 1] * minima[:, 0]) / sums[:, 2]
        scales = rounding(np.where(sums[:, 2] > 0, again, fitted).astype(np.float32)[:, None] * NEAR)
        better, its_error = least_error((scales, minima), grid.errors(weight, h, scales, NONE_2, minima))
        scale = np.where(its_error < error, better[0], scale)
        minimum = np.where(its_error < error, better[1], minimum)
        error = np.minimum(error, its_error)
    return scale, minimum


def fit_sums(weight: Blocks, h: Blocks, codes: np.ndarray, grid: IntegerGrid) -> Float64[np.ndarray, "groups 5"]:
    """Sum Σh, Σhq, Σhq², Σhw, Σhqw of each group."""
    sums = np.empty((len(weight), 5))
    block_search.moments(weight, h, codes, grid.levels, sums)
    return sums


def least_squares_line(
    sums: Float64[np.ndarray, "groups 5"], scale: PerBlock, minimum: PerBlock
) -> tuple[PerBlock, PerBlock]:
    """Fit scale and minimum to codes by weighted least squares; those given where it is not determined."""
    n, q1, q2, w1, qw = sums.T
    determinant = n * q2 - q1 * q1
    sure = determinant > 1e-9 * n * q2
    with np.errstate(divide="ignore", invalid="ignore"):
        s = (n * qw - q1 * w1) / determinant
        m = (q2 * w1 - q1 * qw) / determinant
    return np.where(sure, s, scale).astype(np.float32), np.where(sure, m, minimum).astype(np.float32)


def best_zero_points(
    weight: Blocks, sensitivity: Blocks | None, grid: IntegerGrid, rounding: Rounding, refinements: int = 2
) -> tuple[PerBlock, PerBlock]:
    """Search for the scale s and integer zero point z of least Σ h (w − s (q − z))² of each block.

    Args:
        weight: Weights w.
        sensitivity: Sensitivities h; None: all 1.
        grid: Integers q; zero points are among them.
        rounding: Rounds scales to the stored type.
        refinements: How often the least-squares scale is tried.
    """
    scale, zero = np.empty((2, len(weight)), np.float32)
    for part, w, h in pieces(weight, sensitivity):
        least, most = ranges(w)
        span = np.maximum(most, 0) / 2 - np.minimum(least, 0) / 2
        low = np.minimum(least, 0)[:, None] + 2 * span[:, None] * _CUT[0]
        high = np.maximum(most, 0)[:, None] - 2 * span[:, None] * _CUT[1]
        scales = rounding((high / 2 - low / 2) * np.float32(2 / (grid.high - grid.low)))
        with np.errstate(divide="ignore", invalid="ignore"):
            ideal = np.nan_to_num(grid.low - low / scales)
        zeros = np.clip(np.rint(ideal), grid.low, grid.high).astype(np.float32)
        (s, z), error = least_error((scales, zeros), grid.errors(w, h, scales, zeros))
        for _ in range(refinements):
            sums = fit_sums(w, h, grid.codes(w, s, z), grid)
            n, q1, q2, w1, qw = sums.T
            square = q2 - 2 * z * q1 + z * z * n
            with np.errstate(divide="ignore", invalid="ignore"):
                fitted = np.where(square > 0, (qw - z * w1) / square, s).astype(np.float32)
            scales = rounding(fitted[:, None] * _NEAR_ZERO[0])
            zeros = np.clip(z[:, None] + _NEAR_ZERO[1], grid.low, grid.high)
            better, its_error = least_error((scales, zeros), grid.errors(w, h, scales, zeros))
            s = np.where(its_error < error, better[0], s)
            z = np.where(its_error < error, better[1], z)
            error = np.minimum(error, its_error)
        scale[part], zero[part] = s, z
    return scale, zero


_NEAR_ZERO = np.array([(s, z) for z in (0, -1, 1, 2) for s in (1, 1 - 2**-8, 1 + 2**-8, 1 + 2**-6)], np.float32).T
"""Factors of a scale and steps of a zero point that are tried together."""
