"""The adaptive coder: what comes back, what it takes, and what it refuses."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbquant.coding.context import LARGEST, decode, encode
from nbquant.coding.trellis import levels_of
from nbquant.kernels.cpu import context as kernel
from nbquant.kernels.reference import TRANSITION


def laplace(rows, cols, scale, seed=0):
    return np.rint(np.random.default_rng(seed).laplace(0, scale, (rows, cols))).astype(np.int64)


def entropy_bytes(level):
    share = np.unique(level, return_counts=True)[1] / level.size
    return -float(share @ np.log2(share)) * level.size / 8


@given(
    st.integers(0, 9),
    st.integers(0, 9),
    st.lists(st.one_of(st.integers(-3, 3), st.integers(-40, 40), st.integers(1 - LARGEST, LARGEST - 1)), min_size=81),
    st.booleans(),
)
def test_levels_come_back(rows, cols, values, dependent):
    level = np.array(values[: rows * cols], np.int64).reshape(rows, cols)
    data = encode(level, dependent)
    assert np.array_equal(decode(data, rows, cols, dependent), level)


@pytest.mark.parametrize("shape", [(1, 1), (300, 70), (70, 300), (20_000, 1), (1, 20_000)])
@pytest.mark.parametrize("scale", [0.05, 0.6, 40.0])
def test_large_ones_come_back(shape, scale):
    level = laplace(*shape, scale)
    assert np.array_equal(decode(encode(level), *shape), level)


@pytest.mark.parametrize(("scale", "over"), [(0.1, 1.03), (0.5, 1.02), (2.0, 1.02), (12.0, 1.02)])
def test_levels_that_know_nothing_of_each_other_cost_about_their_entropy(scale, over):
    level = laplace(400, 300, scale)
    assert entropy_bytes(level) * 0.999 - 4 < len(encode(level)) < entropy_bytes(level) * over + 40


def test_rows_and_columns_of_different_sizes_pay():
    """Order 0 does not see that levels of a row, or a column, are alike in size."""
    generator = np.random.default_rng(0)
    scale = np.exp(generator.normal(0, 1, (300, 1)) + generator.normal(0, 1, (1, 200)))
    level = np.rint(generator.laplace(0, scale)).astype(np.int64)
    parts = sum(
        entropy_bytes(level[scale.argsort(axis=None).argsort().reshape(scale.shape) // 3000 == i]) for i in range(20)
    )
    assert len(encode(level)) < 0.88 * entropy_bytes(level)
    assert len(encode(level)) < 1.1 * parts


def test_sides_of_zero_may_differ():
    generator = np.random.default_rng(0)
    level = np.where(
        generator.random((300, 200)) < 0.5, generator.integers(1, 3, (300, 200)), -generator.geometric(0.2, (300, 200))
    )
    assert len(encode(level)) < 1.02 * entropy_bytes(level)


def test_the_state_of_the_trellis_tells():
    """In states 4 to 7 zero is more likely: integers that step over what it stands for."""
    generator = np.random.default_rng(0)
    level = np.zeros((600, 80), np.int64)
    for j in range(80):
        state = 0
        for i in range(600):
            level[i, j] = generator.random() < (0.1 if state >= 4 else 0.6)
            state = TRANSITION[state, level[i, j] & 1]
    assert len(encode(level, dependent=True)) < 0.9 * len(encode(level, dependent=False))


def test_nothing_takes_nothing():
    assert encode(np.zeros((0, 5), np.int64)) == b""
    assert len(encode(np.zeros((1000, 1000), np.int64))) < 600


@given(st.binary(max_size=60), st.integers(0, 12), st.integers(0, 12), st.booleans())
@settings(max_examples=200)
def test_any_bytes_are_refused_or_what_is_written(data, rows, cols, dependent):
    try:
        level = decode(data, rows, cols, dependent)
    except ValueError:
        return
    assert encode(level, dependent) == data


@given(st.integers(0, 10**6), st.integers(0, 7))
@settings(max_examples=60)
def test_a_flipped_bit_is_refused_or_other_levels(at, bit):
    level = laplace(30, 20, 0.8)
    data = bytearray(encode(level))
    data[at % len(data)] ^= 1 << bit
    try:
        found = decode(bytes(data), 30, 20)
    except ValueError:
        return
    assert not np.array_equal(found, level)


@pytest.mark.parametrize("more", [b"\0", b"\1", b"\xff" * 9])
def test_streams_end_where_their_levels_do(more):
    with pytest.raises(ValueError, match=r"must hold 30 × 20 levels and end with them"):
        decode(encode(laplace(30, 20, 0.8)) + more, 30, 20)


def test_cut_streams_are_refused_or_other_levels():
    level = laplace(30, 20, 0.8)
    data = encode(level)
    for size in range(len(data)):
        with contextlib.suppress(ValueError):
            assert not np.array_equal(decode(data[:size], 30, 20), level)


def test_levels_too_large_are_refused():
    with pytest.raises(ValueError, match=r"smaller than 2,147,483,648, but go to 2,147,483,648"):
        encode(np.array([[LARGEST]]))


def test_a_stream_stays_what_it_is():
    """Files of today are read tomorrow: the same levels give the same bytes for ever."""
    level = np.array([[0, 1, -2, 17], [0, 0, 300, -1], [5, 0, 0, 0]])
    assert encode(level).hex() == "ad0bbe824f54cf64d9"
    assert encode(levels_of(np.array([[0, 2, -4], [2, 1, 0]]), 2, 3), dependent=True).hex() == "9f1d"


def test_odds_and_probabilities_are_each_others_inverse():
    stretch, squash, pace = kernel.tables()
    assert np.all(np.diff(squash) >= 0)
    assert squash[kernel.ODDS] == 32768
    middle = (np.arange(300, 3800) << 4) + 8
    assert np.abs(squash[stretch[300:3800] + kernel.ODDS] - middle).max() < 80
    assert pace[:3].tolist() == [32768, 21845, 16384]
