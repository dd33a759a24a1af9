"""The order-0 arithmetic coder: what comes back, what it takes, and what it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbquant.coding.arithmetic import INTERLEAVED, ArithmeticCode


def symbols_of(levels, scale, n, seed=0):
    drawn = np.rint(np.random.default_rng(seed).laplace(levels // 2, scale, n))
    return drawn.clip(0, levels - 1).astype(np.int64)


def entropy_bits(symbols):
    n = np.unique(symbols, return_counts=True)[1]
    return -float(n @ np.log2(n / n.sum()))


def plainly_encoded(symbols, frequencies):
    """The definition in Python's integers, one state."""
    start = [sum(frequencies[:j]) for j in range(len(frequencies))]
    state, words = 1 << 31, []
    for symbol in reversed(symbols):
        f = frequencies[symbol]
        if state >= f << 39:
            words.append(state % 2**32)
            state //= 2**32
        state = (state // f) * 2**24 + state % f + start[symbol]
    return state.to_bytes(8, "little") + b"".join(word.to_bytes(4, "little") for word in reversed(words))


@given(st.lists(st.integers(0, 12), min_size=1, max_size=200))
def test_stream_is_that_of_the_definition_and_comes_back(symbols):
    code = ArithmeticCode.from_counts(np.bincount(symbols, minlength=14))
    assert int(code.frequencies.sum()) == 1 << 24
    assert np.array_equal(code.frequencies > 0, np.bincount(symbols, minlength=14) > 0)
    data = code.encode(np.array(symbols))
    if len(set(symbols)) > 1:
        assert data == plainly_encoded(symbols, code.frequencies.tolist())
    else:
        assert data == b""
    assert code.decode(data, len(symbols)).tolist() == symbols
    again = ArithmeticCode.decode_table(code.encode_table(), code.table_bits, len(code))
    assert again == code


@pytest.mark.parametrize(("levels", "scale"), [(3, 0.2), (16, 1.0), (256, 3.0), (256, 30.0)])
@pytest.mark.parametrize("n", [100_000, INTERLEAVED + 3])
def test_table_and_payload_are_within_a_five_hundredth_of_entropy(levels, scale, n):
    symbols = symbols_of(levels, scale, n)
    code = ArithmeticCode.from_counts(np.bincount(symbols, minlength=levels))
    data = code.encode(symbols)
    assert np.array_equal(code.decode(data, n), symbols)
    assert entropy_bits(symbols) < code.table_bits + 8 * len(data) < 1.002 * entropy_bits(symbols)
    assert code.payload_bits(np.bincount(symbols, minlength=len(code))) <= 8 * len(data)


def test_alphabet_of_2_20_symbols():
    counts = np.ones(1 << 20, np.int64)
    code = ArithmeticCode.from_counts(counts)
    symbols = np.random.default_rng(0).integers(0, 1 << 20, 3000)
    assert np.array_equal(code.decode(code.encode(symbols), 3000), symbols)


def test_damaged_streams_are_refused():
    symbols = symbols_of(16, 1.0, 500)
    code = ArithmeticCode.from_counts(np.bincount(symbols, minlength=16))
    data = code.encode(symbols)
    for end in range(len(data)):
        with pytest.raises(ValueError, match="cut off"):
            code.decode(data[:end], 500)
    with pytest.raises(ValueError, match="count too low"):
        code.decode(data + bytes(4), 500)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match=r"damaged|cut off|count too low"):
            code.decode(bytes(flipped), 500)


def test_what_has_no_frequency_is_refused():
    code = ArithmeticCode.from_counts([3, 0, 1])
    for symbol in (-1, 1, 3):
        with pytest.raises(ValueError, match=f"first {symbol} at index 1"):
            code.encode(np.array([0, symbol]))
    with pytest.raises(ValueError, match="take no bytes"):
        ArithmeticCode.from_counts([0, 5]).decode(b"\0", 5)


@given(st.binary(max_size=12), st.integers(0, 96), st.integers(0, 40))
def test_a_table_is_read_or_refused_and_is_the_only_one(data, bits, symbols):
    try:
        code = ArithmeticCode.decode_table(data, bits, symbols)
    except ValueError:
        return
    assert (code.encode_table(), code.table_bits) == (data, bits)
