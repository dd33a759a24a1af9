"""Blocks taken apart and put together, against the coder of positions in NumPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbquant.coding.huffman import HuffmanCode
from nbquant.coding.positions import GapCode
from nbquant.kernels.cpu import blocks
from tests.coding.position_stream import encode_positions


def code(span):
    """Any complete code of so many gaps and a filler."""
    return GapCode(HuffmanCode.from_counts(np.ones(span + 1, np.int64)))


@given(st.lists(st.integers(-1, 3) | st.just(-1), max_size=60), st.integers(1, 9), st.sampled_from([np.int8, np.int32]))
def test_against_the_coder_of_positions(assignment, span, dtype):
    assignment = np.array(assignment, dtype)
    mask = assignment >= 0
    if mask.all() or not mask.any():
        return
    encoded = encode_positions(mask, code=code(span))
    gaps, symbols = np.empty(encoded.count + encoded.fillers, np.int16), np.empty(encoded.count, dtype)
    assert blocks.split(assignment, span, gaps, symbols)
    assert code(span).code.encode(gaps) == encoded.data
    assert symbols.tolist() == assignment[mask].tolist()
    out = np.full(len(assignment), -1, dtype)
    assert blocks.place(gaps, span, symbols, np.arange(4, dtype=dtype), out) == blocks.OK
    assert out.tolist() == assignment.tolist()
    if len(gaps) > 1:
        last = np.flatnonzero(mask)[-1]
        assert blocks.place(gaps, span, symbols, np.arange(4, dtype=dtype), out[:last]) == blocks.OUT_OF_RANGE
        assert blocks.place(gaps, span, symbols[1:], np.arange(4, dtype=dtype), out) == blocks.OTHER_COUNT
        assert not blocks.split(assignment, span, gaps[1:], symbols)
        assert not blocks.split(assignment, span, gaps, symbols[1:])


@pytest.mark.parametrize(
    ("gaps", "status"),
    [
        ([0, 2, 1], blocks.OK),
        ([2, 2, 2], blocks.OUT_OF_RANGE),
        ([0, 0, 2], blocks.OTHER_COUNT),
        ([0], blocks.OTHER_COUNT),
    ],
)
def test_gaps_that_lead_elsewhere(gaps, status):
    out = np.zeros(5, np.int32)
    symbols, values = np.zeros(2, np.uint8), np.ones(1, np.int32)
    assert blocks.place(np.array(gaps, np.uint8), 2, symbols, values, out) == status


def test_indices_alone_and_values_looked_up():
    symbols = np.empty(2, np.int8)
    assert blocks.split(np.array([-1, 2, 1], np.int8), 0, np.empty(0, np.int16), symbols)
    assert symbols.tolist() == [2, 1]
    out = np.empty(2, np.int64)
    blocks.look_up(symbols, np.array([7, 8, 9]), out)
    assert out.tolist() == [9, 8]
