"""Kernels that fill and add histograms of weights.

Tables are indexed by the upper bits of a float32 without branches: the sign of a weight is a coin
toss that no branch predictor wins. Occupied bins are sorted at the end.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from nbquant.kernels.compiled import compiled
from nbquant.kernels.keys import LEAST_MASS, ROW_KEYS, ROW_SHIFT, ROWS, ZERO_KEY

Array = np.ndarray
Block = tuple[Array, Array]

CACHE_BLOCK = 1 << 16  # weights that stay in the cache between passes
FIRST_ROWS = 64  # initial rows of h in a table; it grows
NONE = np.uint32(0xFFFFFFFF)
_ROW_SHIFT = np.uint32(ROW_SHIFT)
_ONE = np.uint32(1)


@compiled()
def _add_marginal(weight: Array, bits: Array, sensitivity: Array, shift: int, zero: int, sums: Array) -> None:
    for i in range(len(weight)):
        w, h = np.float64(weight[i]), np.float64(sensitivity[i]) + LEAST_MASS
        hw = h * w
        cell = sums[zero if w == 0 else bits[i] >> shift]
        cell[0] += 1
        cell[1] += h
        cell[2] += hw
        cell[3] += hw * w


@compiled()
def _add_joint(
    weight: Array, bits: Array, sensitivity: Array, rows: Array, shift: int, zero: int, slot: Array, sums: Array
) -> None:
    for i in range(len(weight)):
        w, h = np.float64(weight[i]), np.float64(sensitivity[i]) + LEAST_MASS
        hw = h * w
        cell = sums[slot[rows[i] >> _ROW_SHIFT], zero if w == 0 else bits[i] >> shift]
        cell[0] += 1
        cell[1] += h
        cell[2] += hw
        cell[3] += hw * w


@compiled()
def _mark_rows(rows: Array, seen: Array) -> None:
    for i in range(len(rows)):
        seen[rows[i] >> _ROW_SHIFT] = True


@compiled()
def _magnitudes(weight: Array, bits: Array, least: Any, largest: Any) -> tuple[Any, Any]:
    """Least and largest bits of |w|, doubled; zero wraps around to a huge least, and does not count."""
    for i in range(len(bits)):
        doubled = np.uint32(bits[i] << _ONE)
        least, largest = min(least, np.uint32(doubled - np.uint32(weight[i] == 0))), max(largest, doubled)
    return least, largest


def histogram(
    blocks: Iterable[Block], marginal_shift: int, joint_shift: int | None
) -> tuple[Array, Array, Array, Array]:
    """See the two histograms of :mod:`nbquant.kernels.reference`.

    Args:
        blocks: Weights and their sensitivities, float32 or float64, ideally of ``CACHE_BLOCK`` weights each.
        marginal_shift: Bits dropped for the bins of w, at least 8.
        joint_shift: Bits dropped for the bins of the joint grid; None leaves it out.

    Returns:
        Keys and sums of the bins, keys and sums of the cells of the joint grid.
    """
    fine_zero = 1 << (32 - marginal_shift)
    fine = np.zeros((fine_zero + 1, 4))
    coarse_zero = 0 if joint_shift is None else 1 << (32 - joint_shift)
    # Large, but the system only allocates the pages that are written to.
    coarse = np.zeros((0 if joint_shift is None else FIRST_ROWS, coarse_zero + 1, 4))
    slot = np.full(ROWS, NONE, np.uint32)
    least, largest = _unsigned(NONE), _unsigned(0)
    for weight, sensitivity in blocks:
        bits = _float32_bits(weight)
        least, largest = _magnitudes(weight, bits, _unsigned(least), _unsigned(largest))
        _add_marginal(weight, bits, sensitivity, _unsigned(marginal_shift), _unsigned(fine_zero), fine)
        if joint_shift is not None:
            rows = _float32_bits(sensitivity)
            coarse = _room_for(rows, slot, coarse)
            _add_joint(weight, bits, sensitivity, rows, _unsigned(joint_shift), _unsigned(coarse_zero), slot, coarse)
    in_use = int(least) >> 1, int(largest) >> 1
    keys, parts = [np.zeros(0, np.int64)], [np.zeros((0, 4))]
    slot[ROWS // 2] = NONE  # an alias of row 0
    for row in np.flatnonzero(slot != NONE):
        key, part = _occupied(coarse[slot[row]], joint_shift or 0, *in_use)
        keys.append(key + row * ROW_KEYS)
        parts.append(part)
    return *_occupied(fine, marginal_shift, *in_use), np.concatenate(keys), np.concatenate(parts)


def _unsigned(value: Any) -> Any:
    """Cast so that shifts of unsigned bits stay unsigned."""
    return np.uint32(value)


def _room_for(rows: Array, slot: Array, sums: Array) -> Array:
    """Give every occurring row of h a slot in the table, and grow it if necessary."""
    seen = np.zeros(ROWS, np.bool_)
    _mark_rows(rows, seen)
    seen[0] |= seen[ROWS // 2]
    new = np.flatnonzero(seen & (slot == NONE))
    used = np.count_nonzero(slot[: ROWS // 2] != NONE) + np.count_nonzero(slot[ROWS // 2 + 1 :] != NONE)
    new = new[new != ROWS // 2]
    while used + len(new) > len(sums):
        sums = np.concatenate([sums, np.zeros_like(sums)])
    slot[new] = np.arange(used, used + len(new))
    slot[ROWS // 2] = slot[0]
    return sums


@compiled()
def _occupied(sums: Array, shift: int, least: int, largest: int) -> tuple[Array, Array]:
    """Keys and sums of the occupied bins, ascending: the negative bit patterns backwards, zero, the positive ones."""
    half = (len(sums) - 1) >> 1
    first, last = min(least >> shift, half - 1), largest >> shift
    count = 0
    for i in range(first, last + 1):
        count += (sums[i, 0] > 0) + (sums[half + i, 0] > 0)
    count += sums[2 * half, 0] > 0
    key, found = np.empty(count, np.int64), np.empty((count, 4))
    m = 0
    for i in range(last, first - 1, -1):
        if sums[half + i, 0] > 0:
            key[m] = ZERO_KEY + ((-1 - i) << shift)
            _copy(found, m, sums, half + i)
            m += 1
    if sums[2 * half, 0] > 0:
        key[m] = ZERO_KEY
        _copy(found, m, sums, 2 * half)
        m += 1
    for i in range(first, last + 1):
        if sums[i, 0] > 0:
            key[m] = ZERO_KEY + (i << shift) + 1
            _copy(found, m, sums, i)
            m += 1
    return key, found


@compiled()
def _copy(found: Array, m: int, sums: Array, i: int) -> None:
    for c in range(4):
        found[m, c] = sums[i, c]


def _float32_bits(values: Array) -> Array:
    with np.errstate(over="ignore", under="ignore"):
        return values.astype(np.float32, copy=False).view(np.uint32)


@compiled()
def merge(key_a: Array, sums_a: Array, key_b: Array, sums_b: Array) -> tuple[Array, Array]:
    """Add two histograms: the union of their ascending keys, with sums."""
    most = len(key_a) + len(key_b)
    key, sums = np.empty(most, np.int64), np.empty((most, 4))
    i = j = m = 0
    while i < len(key_a) or j < len(key_b):
        if j == len(key_b) or (i < len(key_a) and key_a[i] < key_b[j]):
            key[m] = key_a[i]
            _copy(sums, m, sums_a, i)
            i += 1
        elif i == len(key_a) or key_b[j] < key_a[i]:
            key[m] = key_b[j]
            _copy(sums, m, sums_b, j)
            j += 1
        else:
            key[m] = key_a[i]
            for c in range(4):
                sums[m, c] = sums_a[i, c] + sums_b[j, c]
            i += 1
            j += 1
        m += 1
    return key[:m].copy(), sums[:m].copy()


@compiled()
def add_at(sums: Array, place: Array, terms: Array) -> None:
    """Add rows to the rows of ``sums`` with these indices."""
    for i in range(len(place)):
        row = sums[place[i]]
        for c in range(sums.shape[1]):
            row[c] += terms[i, c]
