"""Integers in the place of indices, and the blocks that they are coded in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbquant.coding import positions
from nbquant.coding.levels import MOST_SPAN, PRUNED, Alphabet, block_shapes, matrix_shape, rows_of_block
from nbquant.coding.trellis import integers_of


def test_a_tensor_is_a_matrix_of_its_first_axis():
    assert matrix_shape(()) == (1, 1)
    assert matrix_shape((7,)) == (7, 1)
    assert matrix_shape((7, 3, 2)) == (7, 6)
    assert matrix_shape((0, 3)) == (0, 3)


@pytest.mark.parametrize(
    ("shape", "blocks"),
    [
        ((), [(1, 1)]),
        ((5,), [(5, 1)]),
        ((25,), [(10, 1), (10, 1), (5, 1)]),
        ((5, 3), [(3, 3), (2, 3)]),
        ((2, 10), [(1, 10), (1, 10)]),
        ((2, 5, 5), [(1, 10), (1, 10), (1, 5), (1, 10), (1, 10), (1, 5)]),
        ((3, 0), []),
        ((0,), []),
    ],
)
def test_blocks_are_whole_rows_or_pieces_of_one(monkeypatch, shape, blocks):
    monkeypatch.setattr(positions, "BLOCK_ENTRIES", 10)
    assert block_shapes(shape) == blocks


@given(st.lists(st.integers(0, 9), max_size=3), st.integers(1, 12))
def test_blocks_hold_every_entry_once(shape, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(positions, "BLOCK_ENTRIES", most)
        blocks = block_shapes(shape)
        assert sum(rows * cols for rows, cols in blocks) == np.prod(shape, dtype=int)
        assert all(0 < rows * cols <= most for rows, cols in blocks)
        assert rows_of_block(0) == most


def test_ranks_are_counted_from_the_value_nearest_zero():
    assert Alphabet.by_rank(np.array([-3.0, -1.0, 0.5, 2.0]), False).integer.tolist() == [-2, -1, 0, 1]
    assert Alphabet.by_rank(np.array([1.0, 2.0]), False).integer.tolist() == [0, 1]
    assert Alphabet.by_rank(np.zeros(0), False).integer.tolist() == []


def test_ranks_leave_zero_to_pruned_weights():
    assert Alphabet.by_rank(np.array([-3.0, -1.0, 0.5, 2.0]), True).integer.tolist() == [-2, -1, 1, 2]
    assert Alphabet.by_rank(np.array([-3.0, 0.0]), True).integer.tolist() == [-1, 1]
    assert Alphabet.by_rank(np.array([-3.0]), True).integer.tolist() == [-1]
    assert Alphabet.by_rank(np.zeros(0), True).integer.tolist() == []


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 9), st.booleans(), st.integers(0, 1000))
def test_indices_come_back(rows, cols, levels, pruned, seed):
    generator = np.random.default_rng(seed)
    if not levels and not pruned:
        levels = 1
    alphabet = Alphabet.by_rank(np.sort(generator.normal(size=levels)), pruned)
    index = generator.integers(PRUNED if pruned else 0, levels, rows * cols).astype(np.int8)
    assert np.array_equal(alphabet.decode(alphabet.encode(index, rows, cols), rows, cols), index)


@given(st.integers(1, 9), st.integers(1, 5), st.booleans(), st.integers(0, 1000))
def test_indices_on_paths_come_back(rows, cols, pruned, seed):
    level = np.random.default_rng(seed).integers(-3, 4, (rows, cols))
    integer = integers_of(level, rows, cols).reshape(-1)
    used = np.unique(integer[integer != 0] if pruned else integer)
    index = np.where((integer == 0) & pruned, PRUNED, np.searchsorted(used, integer))
    alphabet = Alphabet(used, pruned, dependent=True)
    assert np.array_equal(alphabet.decode(alphabet.encode(index, rows, cols), rows, cols), index)


def test_what_is_on_no_path_is_refused():
    with pytest.raises(ValueError, match="path through the trellis"):
        Alphabet(np.array([1, 2]), False, dependent=True).encode(np.array([0, 1]), 2, 1)


def test_indices_outside_are_refused():
    alphabet = Alphabet(np.array([-1, 0]), False)
    with pytest.raises(ValueError, match="must be 0 to 1, but go from -1 to 0"):
        alphabet.encode(np.array([PRUNED, 0]), 2, 1)
    with pytest.raises(ValueError, match="must be 0 to 1, but go from 0 to 2"):
        alphabet.encode(np.array([0, 2]), 2, 1)


def test_levels_of_no_value_are_refused():
    data = Alphabet(np.array([-2, 0, 3]), False).encode(np.array([0, 1, 2, 2]), 2, 2)
    with pytest.raises(ValueError, match="must be those of -2 to 2"):
        Alphabet(np.array([-2, 0, 2]), False).decode(data, 2, 2)
    with pytest.raises(ValueError, match="but some are not"):
        Alphabet(np.array([-2, -1, 3]), False).decode(data, 2, 2)
    with pytest.raises(ValueError, match="must be those of 0 to -1"):
        Alphabet(np.zeros(0, np.int64), False).decode(data, 2, 2)


def test_alphabets_that_cannot_be():
    with pytest.raises(ValueError, match="must ascend"):
        Alphabet(np.array([1, 1]), False)
    with pytest.raises(ValueError, match=r"span less than 16,777,216, but go from 0 to 16,777,216"):
        Alphabet(np.array([0, MOST_SPAN]), False)
    with pytest.raises(ValueError, match="pruned weights only"):
        Alphabet(np.array([0, 1]), True)


@pytest.mark.parametrize("first", [5, -9, 1 << 30])
def test_pruned_weights_may_be_far_from_all_values(first):
    """And what they are far from takes no memory."""
    alphabet = Alphabet(np.array([first, first + 2]), True)
    index = np.array([0, PRUNED, 1, PRUNED, 0, 1])
    assert np.array_equal(alphabet.decode(alphabet.encode(index, 3, 2), 3, 2), index)
    data = Alphabet(np.array([first + 1]), True).encode(np.array([0, PRUNED]), 2, 1)
    with pytest.raises(ValueError, match="but some are not"):
        alphabet.decode(data, 2, 1)
