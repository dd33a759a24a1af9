"""Code tables against a writer and reader that follow the module's words bit by bit."""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbquant.coding.code_table import decode_lengths, encode_lengths, table_bits
from nbquant.coding.huffman import HuffmanCode, codeword_lengths

LENGTHS = st.lists(st.integers(0, 32), max_size=60).filter(lambda lengths: not lengths or any(lengths))


def likely(last, direction, after_unused):
    """All lengths, the likeliest first; None is a symbol without a codeword."""
    steps = [0, *(sign * step for step in range(1, 33) for sign in (1, -1))]
    lengths = [last + direction * step for step in steps]
    lengths.insert(0 if after_unused else 4, None)
    return lengths


def written(lengths):
    if not lengths:
        return ""
    last = next(length for length in lengths if length)
    text = "0" * (len(f"{last:b}") - 1) + f"{last:b}"
    direction, after_unused = -1, False
    for length in lengths:
        text += "0" * likely(last, direction, after_unused).index(length or None) + "1"
        after_unused = not length
        if length:
            direction = direction if length == last else 1 if length > last else -1
            last = length
    return text


@given(LENGTHS)
@settings(max_examples=300)
def test_written_as_the_words_say_and_read_back(lengths):
    text = written(lengths)
    data = encode_lengths(lengths)
    assert "".join(f"{byte:08b}" for byte in data).rstrip("0") == text.rstrip("0")
    assert table_bits(lengths) == len(text)
    assert len(data) == -(-len(text) // 8)
    assert decode_lengths(data, len(lengths), len(text)).tolist() == lengths


def test_hand_worked():
    # 3 as 011, then 3: same, 2: one down, 1: one down, 3: two against the direction, none, none.
    assert written([3, 2, 1, 3, 0, 0]) == "011" "1" "01" "01" "000001" "00001" "1"  # fmt: skip
    assert table_bits([3, 2, 1, 3, 0, 0]) == 20
    assert encode_lengths([1]) == bytes([0b11_000000])


def test_takes_a_fraction_of_the_sum_of_lengths():
    counts = (1e6 * np.exp(-np.abs(np.arange(-40, 41)) / 3)).astype(int) + 1
    lengths = codeword_lengths(counts)
    assert table_bits(lengths) < 0.25 * lengths.sum()
    assert HuffmanCode(lengths).table_bits == table_bits(lengths)


@pytest.mark.parametrize("lengths", [[0], [0, 0], [-1, 2], [33]])
def test_no_lengths_of_a_code(lengths):
    with pytest.raises(ValueError, match="0 to 32 bits and not all 0"):
        encode_lengths(lengths)


@given(st.binary(max_size=12), st.integers(-1, 40), st.integers(-1, 100))
@settings(max_examples=500)
def test_any_bytes_are_the_table_of_what_is_read_or_are_refused(data, count, bits):
    try:
        lengths = decode_lengths(data, count, bits)
    except ValueError:
        return
    assert encode_lengths(lengths) == data
    assert table_bits(lengths) == bits


def test_every_flip_gives_another_table_or_is_refused():
    lengths = [4, 4, 3, 2, 0, 0, 1, 5, 5]
    data, bits = encode_lengths(lengths), table_bits(lengths)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 128 >> bit % 8
        with suppress(ValueError):
            assert decode_lengths(bytes(damaged), len(lengths), bits).tolist() != lengths


@pytest.mark.parametrize(
    ("data", "count", "bits", "message"),
    [
        (b"\xc0", 1, 9, "got 1 bytes"),
        (b"\xc0", 3, 2, "3 code lengths in 2 bits"),
        (b"\xc0", 1, 3, "end at bit 2"),
        (b"\xc1", 1, 2, "6 bits after the last code length must be zero"),
        (b"\xc0", 2, 3, "damaged"),
        (b"\x00", 1, 8, "damaged"),
        (b"\x08", 0, 5, "no code lengths"),
        (bytes([0b1_001_0000]), 1, 4, "must be 1 bits, the first entry of the table"),
        (bytes([0b1_01_00000]), 1, 3, "damaged"),
    ],
)
def test_damage_is_named(data, count, bits, message):
    with pytest.raises(ValueError, match=message):
        decode_lengths(data, count, bits)
