"""The joint histogram over weight and sensitivity."""

import numpy as np
from numba import njit

from nbquant.kernels.reference import SENSITIVITY_SHIFT, WEIGHT_BINS, WEIGHT_SHIFT, ZERO_BIN

Array = np.ndarray


@njit(cache=True, nogil=True, inline="always")
def _weight_bin(weight: float, bits: int) -> int:
    if weight == 0:
        return ZERO_BIN
    if bits < 0:
        return ((bits ^ 0x7FFFFFFF) >> WEIGHT_SHIFT) + ZERO_BIN
    return (bits >> WEIGHT_SHIFT) + ZERO_BIN + 1


@njit(cache=True, nogil=True, inline="always")
def _sensitivity_row(bits: int) -> int:
    return (bits & 0x7FFFFFFF) >> SENSITIVITY_SHIFT


@njit(cache=True, nogil=True)
def _joint_histogram(weight: Array, bits: Array, sensitivity: Array, rows: Array) -> tuple[Array, Array]:
    lowest, highest = 1 << 10, 0
    for i in range(len(rows)):
        row = _sensitivity_row(rows[i])
        lowest, highest = min(lowest, row), max(highest, row)
    # Two passes: which cells are occupied, then their sums. A sort would cost ten times as much.
    index = np.zeros((highest - lowest + 1) * WEIGHT_BINS, np.int32)
    for i in range(len(rows)):
        index[(_sensitivity_row(rows[i]) - lowest) * WEIGHT_BINS + _weight_bin(weight[i], bits[i])] = 1
    occupied = np.flatnonzero(index)
    for m in range(len(occupied)):
        index[occupied[m]] = m
    sums = np.zeros((len(occupied), 6), np.float64)
    for i in range(len(rows)):
        m = index[(_sensitivity_row(rows[i]) - lowest) * WEIGHT_BINS + _weight_bin(weight[i], bits[i])]
        w, h = np.float64(weight[i]), np.float64(sensitivity[i])
        cell = sums[m]
        cell[0] += 1
        cell[1] += w
        cell[2] += w * w
        cell[3] += h
        cell[4] += h * w
        cell[5] += h * w * w
    return occupied + np.int64(lowest) * WEIGHT_BINS, sums


def joint_histogram(weight: Array, sensitivity: Array) -> tuple[Array, Array]:
    """See :func:`nbquant.kernels.reference.joint_histogram`; float32 or float64 arrays."""
    if len(weight) == 0:
        return np.zeros(0, np.int64), np.zeros((0, 6))
    return _joint_histogram(weight, _float32_bits(weight), sensitivity, _float32_bits(sensitivity))


def _float32_bits(values: Array) -> Array:
    with np.errstate(over="ignore", under="ignore"):
        return values.astype(np.float32, copy=False).view(np.int32)
