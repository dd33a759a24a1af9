import pickle
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nbquant.coding.entropy import entropy
from nbquant.coding.huffman import HuffmanCode, codeword_lengths, symbol_counts

COUNTS = st.lists(st.integers(0, 100) | st.integers(0, 10**6), min_size=1, max_size=100).filter(any)


def test_hand_worked():
    code = HuffmanCode.from_counts([15, 7, 6, 6, 5])  # a well-known one: 87 bits for 39 symbols
    assert code.lengths.tolist() == [1, 3, 3, 3, 3]
    assert code.codewords == ("0", "100", "101", "110", "111")
    assert code.payload_bits([15, 7, 6, 6, 5]) == 87
    assert code.table_bits == 11
    assert code.encode([0, 4, 1, 2]) == bytes([0b0_111_100_1, 0b01_000000])
    assert code.decode(bytes([0b0_111_100_1, 0b01_000000]), 4).tolist() == [0, 4, 1, 2]


def test_a_single_symbol_takes_one_bit_and_unused_ones_none():
    assert codeword_lengths([0, 9, 0]).tolist() == [0, 1, 0]
    assert HuffmanCode.from_counts([0, 9, 0]).codewords == ("", "0", "")


@given(COUNTS)
@settings(deadline=None)
def test_kraft_equality_and_entropy_bounds(counts):
    lengths = codeword_lengths(counts)
    if np.count_nonzero(lengths) == 1:
        return
    assert (2.0 ** -lengths[lengths > 0]).sum() == 1
    average = np.dot(counts, lengths) / sum(counts)
    assert entropy(counts) - 1e-9 <= average < entropy(counts) + 1


@given(COUNTS, st.integers(7, 32))
@settings(deadline=None)
def test_a_tighter_limit_never_costs_less(counts, limit):
    loose, tight = codeword_lengths(counts), codeword_lengths(counts, limit)
    assert tight.max() <= limit
    assert np.dot(counts, loose) <= np.dot(counts, tight)
    HuffmanCode.from_lengths(tight)


def test_arrays_tensors_and_any_integer_dtype_are_taken_alike():
    counts = [3, 1, 4, 1, 5]
    expected = codeword_lengths(counts).tolist()
    for dtype in (np.uint8, np.int32, np.uint64):
        assert codeword_lengths(np.array(counts, dtype)).tolist() == expected
    assert codeword_lengths(torch.tensor(counts)).tolist() == expected
    code = HuffmanCode.from_lengths(torch.tensor(expected))
    symbols = torch.tensor([4, 2, 0, 1, 3])
    assert code.decode(code.encode(symbols), 5).tolist() == symbols.tolist()
    strided = torch.arange(10)[::2] // 2
    assert code.decode(code.encode(strided), 5).tolist() == strided.tolist()


@pytest.mark.parametrize(("k", "dtype"), [(256, np.uint8), (257, np.uint16), (65536, np.uint16), (65537, np.uint32)])
def test_symbols_come_back_in_the_smallest_dtype(k, dtype):
    code = HuffmanCode.from_counts(np.ones(k, np.int64))
    symbols = np.arange(k)[::-1]
    decoded = code.decode(code.encode(symbols), k)
    assert decoded.dtype == dtype
    np.testing.assert_array_equal(decoded, symbols)


@given(COUNTS, st.data())
@settings(deadline=None)
def test_payload_bits_are_those_of_the_stream(counts, data):
    code = HuffmanCode.from_counts(counts)
    used = [j for j, n in enumerate(counts) if n]
    symbols = data.draw(st.lists(st.sampled_from(used), max_size=60))
    stream = code.encode(np.array(symbols, np.int64))
    assert -(-code.payload_bits(np.bincount(np.array(symbols, int), minlength=len(counts))) // 8) == len(stream)


def test_a_code_is_a_value():
    code = HuffmanCode.from_counts([3, 2, 1])
    same = HuffmanCode.from_lengths(code.lengths)
    assert code == same
    assert hash(code) == hash(same)
    assert code != HuffmanCode.from_counts([1, 2, 3])
    assert code != (1, 2, 2)
    assert pickle.loads(pickle.dumps(code)) == code
    with pytest.raises(ValueError, match="read-only"):
        code.lengths[0] = 5
    with pytest.raises(FrozenInstanceError):
        code.lengths = np.array([1, 1])
    given_lengths = np.array([1, 1])
    HuffmanCode.from_lengths(given_lengths)
    given_lengths[0] = 2  # still the caller's


@pytest.mark.parametrize(
    ("counts", "limit", "error", "message"),
    [
        ([], 32, ValueError, "at least one symbol"),
        ([0, 0], 32, ValueError, "all 2 are zero"),
        ([4, -1], 32, ValueError, r"1 of 2 are not \(first -1 at symbol 1\)"),
        ([1.0, 2.0], 32, TypeError, "float64"),
        ([1, 1, 1, 1, 1], 2, ValueError, r"distinguish 2\*\*2 symbols, but 5 occur: raise max_length to 3"),
        ([1, 1], 0, ValueError, "1 to 32 bits, but is 0"),
        ([1, 1], 33, ValueError, "1 to 32 bits, but is 33"),
        ([2**62, 2**62], 32, ValueError, r"less than 2\*\*56, but sum to 9223372036854775808"),
    ],
)
def test_bad_counts_are_refused(counts, limit, error, message):
    with pytest.raises(error, match=message):
        codeword_lengths(counts, limit)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([], "there are none"),
        ([0, 0], "go from 0 to 0"),
        ([1, -1], "go from -1 to 1"),
        ([33, 1], "go from 1 to 33"),
        ([1, 2], "give 0.75: some bit patterns would be unused"),
        ([2], "give 0.25"),
        ([1, 1, 2], "give 1.25: no prefix code is that short"),
    ],
)
def test_lengths_of_no_complete_code_are_refused(lengths, message):
    with pytest.raises(ValueError, match=message):
        HuffmanCode.from_lengths(np.array(lengths, np.int64))


@pytest.mark.parametrize("lengths", [[1, 0, 2, 3, 3], [1, 0, *range(2, 21), 20]], ids=["short", "long"])
@pytest.mark.parametrize("n", [1, 3, 4, 1000])
@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("bad", [-1, "k", 2**40])
def test_symbols_outside_the_alphabet_are_refused_wherever_they_stand(lengths, n, place, bad):
    bad = len(lengths) if bad == "k" else bad
    symbols = np.zeros(n, np.int64)
    symbols[place] = bad
    message = rf"0 to {len(lengths) - 1}, but 1 of {n} are not \(first {bad} at index {0 if place == 0 else n - 1}\)"
    with pytest.raises(ValueError, match=message):
        HuffmanCode.from_lengths(lengths).encode(symbols)


@pytest.mark.parametrize("lengths", [[1, 0, 2, 3, 3], [1, 0, *range(2, 21), 20]], ids=["short", "long"])
@pytest.mark.parametrize("n", [1, 3, 4, 1000])
@pytest.mark.parametrize("place", [0, -1])
def test_symbols_without_a_codeword_are_refused_wherever_they_stand(lengths, n, place):
    symbols = np.zeros(n, np.int64)
    symbols[place] = 1
    with pytest.raises(ValueError, match=rf"1 of {n} have none \(first 1 at index {0 if place == 0 else n - 1}\)"):
        HuffmanCode.from_lengths(lengths).encode(symbols)


def test_malformed_streams_are_refused():
    code = HuffmanCode.from_lengths([1, 2, 3, 3])
    stream = code.encode([3, 3, 0])  # 7 bits, 1 of padding
    assert code.decode(stream, 3).tolist() == [3, 3, 0]
    for data, count, message in [
        (b"", 1, "0 bytes hold at most 0 symbols"),
        (stream, 9, "hold at most 8 symbols, but 9"),
        (stream, 10**12, "hold at most 8 symbols"),
        (b"\xff", 3, "ends after 2 of 3 symbols"),
        (stream + b"\0", 3, "end at bit 7, but the stream has 16 bits"),
        (bytes([stream[0] | 1]), 3, "1 bits after the last symbol must be zero"),
        (stream, -1, "0 or more, but is -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            code.decode(data, count)


@pytest.mark.parametrize("n", [8, 8000])
def test_the_pattern_a_single_symbol_leaves_unused_is_refused(n):
    code = HuffmanCode.from_counts([7])
    stream = bytearray(code.encode(np.zeros(n, np.int64)))
    assert code.decode(bytes(stream), n).tolist() == [0] * n
    stream[-1] |= 1
    with pytest.raises(ValueError, match=f"bits from {n - 1} on are no codeword"):
        code.decode(bytes(stream), n)


@given(st.binary(max_size=300), st.integers(0, 400), COUNTS)
@settings(deadline=None)
def test_any_bytes_decode_to_what_encodes_to_them_or_are_refused(data, count, counts):
    code = HuffmanCode.from_counts(counts)
    try:
        symbols = code.decode(data, count)
    except ValueError:
        return
    assert code.encode(symbols) == data


def test_payload_bits_refuses_what_has_no_codeword():
    code = HuffmanCode.from_counts([1, 0, 2])
    for counts, message in [
        ([1, 2], "3 symbols, but are 2"),
        ([1, 4, 0], "symbol 1 occurs 4 times"),
        ([-1, 0, 0], "-1"),
    ]:
        with pytest.raises(ValueError, match=message):
            code.payload_bits(counts)


@given(st.lists(st.integers(0, 300), max_size=50), st.sampled_from([np.int64, np.uint16]))
@settings(deadline=None)
def test_symbols_are_counted(symbols, dtype):
    expected = np.bincount(np.array(symbols, int), minlength=301)
    np.testing.assert_array_equal(symbol_counts(np.array(symbols, dtype), 301), expected)


@pytest.mark.parametrize("n", [1, 3, 4, 9])
@pytest.mark.parametrize("bad", [-1, 3])
def test_symbols_outside_are_not_counted(n, bad):
    symbols = np.zeros(n, np.int64)
    symbols[-1] = bad
    with pytest.raises(ValueError, match=rf"0 to 2, but 1 of {n} are not \(first {bad} at index {n - 1}\)"):
        symbol_counts(symbols, 3)
