"""Levels and integers on the trellis, against the definition walked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbquant.coding.trellis import STATES, TRANSITION, integers_of, levels_of, states_of

matrices = st.tuples(st.integers(0, 9), st.integers(1, 5), st.integers(0, 2**32 - 1))


def draw(rows, cols, seed):
    return np.random.default_rng(seed).integers(-4, 5, (rows, cols))


def walked(column):
    """Integers of a column of levels, one at a time."""
    state, found = 0, []
    for k in column:
        found.append(2 * k if state < 4 else 2 * k - np.sign(k))
        state = TRANSITION[state, k % 2]
    return found


def test_every_state_is_left_for_two_and_entered_from_two():
    assert TRANSITION.shape == (STATES, 2)
    assert (TRANSITION[:, 0] != TRANSITION[:, 1]).all()
    assert np.bincount(TRANSITION.ravel()).tolist() == [2] * STATES
    assert TRANSITION[0, 0] == 0


def test_both_quantizers_by_hand():
    # State 0: k = 1 is m = 2 and goes to 4; there −2 is −3, to 7; there 1 is 1, to 5; there 0 is 0, to 5; 1 is 1.
    assert integers_of(np.array([1, -2, 1, 0, 1]), 5, 1).ravel().tolist() == [2, -3, 1, 0, 1]
    assert states_of(np.array([1, -2, 1, 0, 1]), 5, 1).ravel().tolist() == [0, 4, 7, 5, 5]


@given(matrices)
def test_integers_are_those_of_each_column_walked_alone(shape):
    level = draw(*shape)
    integers = integers_of(level, *shape[:2])
    assert integers.T.tolist() == [walked(column) for column in level.T]


@given(matrices)
def test_round_trip(shape):
    level = draw(*shape)
    assert levels_of(integers_of(level, *shape[:2]), *shape[:2]).tolist() == level.tolist()


@given(matrices, st.integers(0, 9))
def test_blocks_of_rows_go_on_where_the_last_ended(shape, cut):
    level, (rows, cols, _) = draw(*shape), shape
    cut, state = min(cut, rows), np.zeros(cols, np.uint8)
    upper = integers_of(level[:cut], cut, cols, state)
    after = np.vstack([level, np.zeros((1, cols), int)])
    assert state.tolist() == states_of(after, rows + 1, cols)[cut].tolist()
    lower = integers_of(level[cut:], rows - cut, cols, state)
    assert np.vstack([upper, lower]).tolist() == integers_of(level, rows, cols).tolist()


def test_quantizers_take_every_integer_once_and_zero_twice():
    level = np.arange(-50, 51)
    even = integers_of(level, 1, 101).ravel()
    odd = integers_of(np.stack([np.ones_like(level), level]), 2, 101)[1]
    assert sorted([*even, *odd]) == sorted([*range(-100, 101), 0])


@pytest.mark.parametrize("column", [[1], [2, 2], [0, -1], [2, 0, 2]])
def test_integers_off_the_trellis_are_refused(column):
    with pytest.raises(ValueError, match=r"1 of .* are not of the quantizer in force"):
        levels_of(np.array(column), len(column), 1)


@pytest.mark.parametrize("convert", [levels_of, integers_of, states_of])
def test_another_number_of_entries_is_refused(convert):
    with pytest.raises(ValueError, match="must be 2 rows of 3 columns, so 6, but got 5"):
        convert(np.zeros(5, int), 2, 3)
