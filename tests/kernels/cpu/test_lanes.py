"""Values of eight lanes against numpy."""

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbquant.kernels.cpu import context
from nbquant.kernels.cpu import lanes as ops

INTEGERS = st.lists(st.integers(-(1 << 31), (1 << 31) - 1), min_size=8, max_size=8)


@numba.njit
def arithmetic(a, b, out):
    x, y = ops.load(a, 0), ops.load(b, 0)
    ops.store(out, 0, x + y)
    ops.store(out, 8, x - y)
    ops.store(out, 16, x * y)
    ops.store(out, 24, (x & y) | 5)
    ops.store(out, 32, 7 - (x >> 3))
    ops.store(out, 40, ops.high_bits(x, 3) << 2)
    ops.store(out, 48, ops.least(x, 9))
    ops.store(out, 56, (x & 0) - 2)
    return ops.dot(x, y), ops.all_at_least(x, 4), ops.all_at_least(ops.least(x, 3), 4)


@numba.njit
def gathered(array, out):
    at = 3, 0, 5, 1, 2, 9, 4
    ops.store(out, 0, ops.take(array, at))
    ops.store(out, 8, ops.look_up(array, at, 2, 6))
    ops.store(out, 16, ops.equal(array, 5))
    ops.put(array, at, ops.load(out, 0) + 100)
    return ops.entry(array, 7)


@numba.njit
def quotients(a, b, out):
    ops.store(out, 0, ops.divide(ops.load(a, 0), ops.load(b, 0)))


@given(INTEGERS, INTEGERS)
def test_arithmetic_is_that_of_32_bits(a, b):
    x, y = np.array(a, np.int32), np.array(b, np.int32)
    out = np.zeros((8, 8), np.int32)
    total, none_below, never = arithmetic(x, y, out.reshape(-1))
    shifted = (x.view(np.uint32) >> 3 << 2).view(np.int32)
    expected = [x + y, x - y, x * y, (x & y) | 5, 7 - (x >> 3), shifted, np.minimum(x, 9), np.full(8, -2)]
    assert np.array_equal(out, expected)
    exact = sum(i * j for i, j in zip(a, b, strict=True))
    assert (total - exact) % (1 << 64) == 0
    assert none_below == (min(a) >= 4)
    assert not never


def test_entries_are_taken_and_put():
    array = np.array([0, 8, 4, 12, 13, 14, 60, 61, 62, 2], np.uint32)
    before, out = array.copy(), np.zeros(24, np.int32)
    at = [3, 0, 5, 1, 2, 9, 4]
    assert gathered(array, out) == 61
    assert out[:8].tolist() == [*before[at], -1]
    assert out[8:16].tolist() == [*before[6 + (before[at] >> 2)], 0]
    assert out[16:].tolist() == [14] * 8
    assert array[at].tolist() == (before[at] + 100).tolist()


def test_quotients_are_the_adaptation_rates():
    pace = context.tables()[2]
    for first in range(0, context.LIMIT + 1, 8):
        age = np.arange(first, first + 8, dtype=np.int32)
        out = np.zeros(8, np.int32)
        quotients(65537 + (age >> 1), age + 2, out)
        assert out.tolist() == pace[first : first + 8].tolist()
    assert pace[context.LIMIT] == context.SLOWEST


@pytest.mark.parametrize("d", range(1, 256, 9))
def test_quotients_are_rounded_down(d):
    numerator = np.array([0, 1, d - 1, d, 3 * d - 1, 3 * d, 999 * d, 999 * d - 1], np.int32)
    out = np.zeros(8, np.int32)
    quotients(numerator, np.full(8, d, np.int32), out)
    assert out.tolist() == (numerator // d).tolist()
