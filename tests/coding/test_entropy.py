import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nbquant.coding.entropy import entropy

COUNTS = st.lists(st.integers(0, 10**9), min_size=1, max_size=50).filter(any)


def test_hand_worked():
    assert entropy([8, 4, 2, 2]) == 1.75
    assert entropy(np.array([5, 0, 5])) == 1.0
    assert entropy(torch.tensor([1, 3], dtype=torch.int32)) == pytest.approx(2 - 0.75 * math.log2(3))


def test_one_symbol_has_none_and_not_minus_none():
    assert math.copysign(1, entropy([0, 7])) == 1.0
    assert entropy([0, 7]) == 0.0


@given(COUNTS, st.randoms())
def test_between_zero_and_log2_of_the_symbols_in_use_whatever_their_order(counts, random):
    h = entropy(counts)
    assert 0 <= h <= math.log2(sum(n > 0 for n in counts)) + 1e-9
    random.shuffle(counts)
    assert entropy([*counts, 0]) == pytest.approx(h, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    ("counts", "error", "message"),
    [
        ([], ValueError, "at least one symbol"),
        ([0, 0, 0], ValueError, "all 3 are zero"),
        ([3, -1, -2], ValueError, r"2 of 3 are not \(first -1 at symbol 1\)"),
        ([[1, 2]], ValueError, r"shape \(1, 2\)"),
        ([0.5, 0.5], TypeError, "float64"),
    ],
)
def test_what_is_no_distribution_is_refused(counts, error, message):
    with pytest.raises(error, match=message):
        entropy(counts)
