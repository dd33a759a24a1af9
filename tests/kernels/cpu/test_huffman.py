"""The kernels against plain Python: a heap for the lengths, a dictionary for the bit stream."""

import heapq
from functools import cache
from itertools import count as counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbquant.coding.huffman import HuffmanCode
from nbquant.kernels.cpu import huffman as kernels


def heap_lengths(counts):
    ticket = counter()
    heap = [(n, next(ticket), [j]) for j, n in enumerate(counts) if n]
    lengths = [0] * len(counts)
    if len(heap) == 1:
        lengths[heap[0][2][0]] = 1
    heapq.heapify(heap)
    while len(heap) > 1:
        a, b = heapq.heappop(heap), heapq.heappop(heap)
        for j in a[2] + b[2]:
            lengths[j] += 1
        heapq.heappush(heap, (a[0] + b[0], next(ticket), a[2] + b[2]))
    return lengths


@cache
def complete_codes(size, limit):
    return [ls for ls in product(range(1, limit + 1), repeat=size) if sum(2.0**-length for length in ls) == 1]


def cost(counts, lengths):
    return int(np.dot(counts, lengths))


def reference_codewords(lengths):
    codewords, value, before = {}, 0, 0
    for length, symbol in sorted((length, j) for j, length in enumerate(lengths) if length):
        value <<= length - before
        codewords[symbol] = format(value, f"0{length}b")
        value, before = value + 1, length
    return codewords


def reference_encode(symbols, lengths):
    codewords = reference_codewords(lengths)
    bits = "".join(codewords[s] for s in symbols)
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))


def reference_decode(data, count, lengths):
    symbol_of = {word: s for s, word in reference_codewords(lengths).items()}
    symbols, word = [], ""
    bits = iter("".join(format(byte, "08b") for byte in data))
    while len(symbols) < count:
        word += next(bits)
        if word in symbol_of:
            symbols.append(symbol_of[word])
            word = ""
    return symbols


COUNTS = st.lists(st.integers(0, 1000) | st.integers(0, 3) | st.integers(0, 10**12), min_size=1, max_size=80).filter(
    any
)


@given(COUNTS)
@settings(max_examples=300, deadline=None)
def test_lengths_cost_what_the_heap_s_cost(counts):
    lengths, status = kernels.code_lengths(np.array(counts), 60)
    assert status == kernels.OK
    assert cost(counts, lengths) == cost(counts, heap_lengths(counts))
    assert [bool(length) for length in lengths] == [bool(n) for n in counts]


@given(st.lists(st.integers(1, 40), min_size=2, max_size=5), st.integers(3, 4))
@settings(max_examples=200, deadline=None)
def test_lengths_are_the_best_of_all_codes_within_the_limit(counts, limit):
    lengths, status = kernels.code_lengths(np.array(counts), limit)
    assert status == kernels.OK
    assert lengths.max() <= limit
    assert cost(counts, lengths) == min(cost(counts, ls) for ls in complete_codes(len(counts), limit))


def test_the_limit_binds_and_is_met_at_the_least_cost():
    counts = [1, 1, 2, 3, 5]
    assert max(heap_lengths(counts)) == 4
    lengths, _ = kernels.code_lengths(np.array(counts), 3)
    assert lengths.max() == 3
    assert cost(counts, lengths) == min(cost(counts, ls) for ls in complete_codes(5, 3)) == 26


@given(st.lists(st.integers(1, 30), min_size=2, max_size=5))
@settings(max_examples=100, deadline=None)
def test_of_the_optimal_codes_it_has_the_least_sum_and_maximum(counts):
    lengths, _ = kernels.code_lengths(np.array(counts), 32)
    codes = complete_codes(len(counts), 4)
    best = min(cost(counts, ls) for ls in codes)
    optimal = [ls for ls in codes if cost(counts, ls) == best]
    assert lengths.sum() == min(map(sum, optimal))
    assert lengths.max() == min(map(max, optimal))


@pytest.mark.parametrize("limit", [12, 16, 24, 32])
def test_fibonacci_counts_are_limited_to_a_complete_code(limit):
    fibonacci = [1, 1]
    while len(fibonacci) < 60:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    counts = np.array(fibonacci)
    lengths, status = kernels.code_lengths(counts, limit)
    assert status == kernels.OK
    assert lengths.max() == limit
    assert (2.0**-lengths).sum() == 1
    assert cost(counts, lengths) >= cost(counts, heap_lengths(fibonacci))
    assert cost(counts, lengths) <= cost(counts, kernels.code_lengths(counts, limit - 1)[0])


def test_of_equal_counts_the_first_gets_the_shorter_codeword():
    assert kernels.code_lengths(np.array([5, 5, 5]), 32)[0].tolist() == [1, 2, 2]


@given(COUNTS)
@settings(max_examples=100, deadline=None)
def test_canonical_codewords_match_the_reference(counts):
    lengths, _ = kernels.code_lengths(np.array(counts), 32)
    codewords = kernels.canonical_codewords(lengths)
    for symbol, word in reference_codewords(lengths.tolist()).items():
        assert format(codewords[symbol], f"0{lengths[symbol]}b") == word


def skewed(k, n, steepness, seed=0):
    """Symbols of a geometric-like law, each of the k at least once."""
    rng = np.random.default_rng(seed)
    p = np.exp(-steepness * np.arange(k))
    return rng.permutation(np.concatenate([np.arange(k), rng.choice(k, n, p=p / p.sum())]))


LAWS = [
    (1, 0.0),
    (2, 0.0),
    (2, 5.0),
    (3, 1.0),
    (32, 0.3),
    (32, 0.9),
    (256, 0.0),
    (256, 0.05),
    (257, 0.05),
    (3000, 0.002),
]
DTYPES = [np.uint8, np.uint16, np.int32, np.int64]


@pytest.mark.parametrize(
    ("k", "steepness", "dtype"), [(*law, t) for law in LAWS for t in DTYPES if law[0] - 1 <= np.iinfo(t).max]
)
@pytest.mark.parametrize("n", [0, 1, 7, 1000, 4099])
def test_stream_is_the_reference_s_and_reads_back(k, steepness, n, dtype):
    symbols = skewed(k, n, steepness)
    code = HuffmanCode.from_counts(np.bincount(symbols, minlength=k))
    data = code.encode(symbols.astype(dtype))
    assert data == reference_encode(symbols.tolist(), code.lengths.tolist())
    decoded = code.decode(data, len(symbols))
    np.testing.assert_array_equal(decoded, symbols)
    assert decoded.tolist() == reference_decode(data, len(symbols), code.lengths.tolist())


@pytest.mark.parametrize("longest", [15, 16, 17, 31, 32])
@pytest.mark.parametrize("k_extra", [0, 300, 70000])
def test_long_codewords_pass_through_every_path(longest, k_extra):
    lengths = [*range(1, longest), longest, longest] + [0] * k_extra
    code = HuffmanCode.from_lengths(np.array(lengths))
    rng = np.random.default_rng(longest)
    symbols = np.concatenate([rng.integers(0, longest + 1, 2000), np.zeros(500, int), np.full(99, longest)])
    data = code.encode(symbols)
    assert data == reference_encode(symbols.tolist(), lengths)
    np.testing.assert_array_equal(code.decode(data, len(symbols)), symbols)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=400), st.data())
@settings(max_examples=150, deadline=None)
def test_any_symbols_read_back(symbols, data):
    code = HuffmanCode.from_counts(np.bincount(symbols))
    stream = code.encode(np.array(symbols))
    np.testing.assert_array_equal(code.decode(stream, len(symbols)), symbols)
    fewer = data.draw(st.integers(0, len(stream) - 1))
    with pytest.raises(ValueError, match=r"cut off|hold at most|no codeword"):
        code.decode(stream[:fewer], len(symbols))


def test_the_table_holds_every_whole_codeword_of_its_index():
    lengths = np.array([1, 2, 3, 3])
    table = kernels.decode_table(kernels.canonical_codewords(lengths), lengths, 4, 8)

    def entry(index):
        e = int(table[index])
        return [(e >> 8 * i) & 255 for i in range(e >> 61)], (e >> 56) & 31

    assert entry(0b0000) == ([0, 0, 0, 0], 4)
    assert entry(0b1011) == ([1], 2)
    assert entry(0b1101) == ([2], 3)
    assert entry(0b0110) == ([0, 2], 4)
    assert entry(0b1110) == ([3, 0], 4)
