"""Positions against a decoder that walks the tensor entry by entry, and a search over all spans."""

from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbquant.coding.code_table import table_bits
from nbquant.coding.huffman import HuffmanCode, codeword_lengths
from nbquant.coding.positions import (
    GapCode,
    gap_code,
    group_tables,
    position_bits,
)
from tests.coding.position_stream import encode_positions, gap_histogram

MASKS = st.one_of(
    st.lists(st.booleans(), max_size=200),
    st.tuples(st.sets(st.integers(0, 2999)), st.just(3000)).map(lambda pair: [i in pair[0] for i in range(pair[1])]),
)


def walked(encoded):
    """Bit by bit, with the codewords as strings."""
    if encoded.code is None:
        return list(range(encoded.count))
    symbol_of = {word: s for s, word in enumerate(encoded.code.code.codewords) if word}
    positions, at, word = [], 0, ""
    for bit in "".join(format(byte, "08b") for byte in encoded.data):
        if len(positions) == encoded.count:
            break
        word += bit
        if word in symbol_of:
            if symbol_of[word] == encoded.code.span:
                at += encoded.code.span
            else:
                at += symbol_of[word]
                positions.append(at)
                at += 1
            word = ""
    return positions


def total_bits(gaps, span):
    """Payload and table by the words of the module's docstring."""
    symbols = [s for g in gaps for s in [span] * (g // span) + [g % span]]
    lengths = codeword_lengths(np.bincount(symbols, minlength=span + 1))
    return sum(lengths[s] for s in symbols) + table_bits(lengths)


@given(MASKS)
@settings(max_examples=200, deadline=None)
def test_reads_back(mask):
    mask = np.array(mask, bool)
    encoded = encode_positions(mask)
    assert walked(encoded) == np.flatnonzero(mask).tolist()
    payload, _ = position_bits(gap_histogram(mask))
    assert -(-payload // 8) == len(encoded.data)


@given(st.lists(MASKS, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_tensors_share_a_table_and_their_histograms_add(masks):
    masks = [np.array(mask, bool) for mask in masks]
    together = reduce(add, map(gap_histogram, masks))
    if not together.total:
        return
    code = gap_code(together)
    encoded = [encode_positions(mask, code=code) for mask in masks]
    assert all(walked(e) == np.flatnonzero(m).tolist() for e, m in zip(encoded, masks, strict=True))
    bits = [code.payload_bits(gap_histogram(mask)) for mask in masks]
    assert [-(-b // 8) for b in bits] == [len(e.data) for e in encoded]
    assert position_bits(together) == (sum(bits), code.table_bits)


def test_hand_worked():
    # Gaps 1 0 0 3 of the mask 0 1 1 1 0 0 0 1 0: cheapest with span 1, a bit for each weight and each zero before one.
    mask = np.array([0, 1, 1, 1, 0, 0, 0, 1, 0], bool)
    histogram = gap_histogram(mask)
    assert (histogram.gaps.tolist(), histogram.counts.tolist()) == ([0, 1, 3], [2, 1, 1])
    assert position_bits(histogram) == (8, 3)
    encoded = encode_positions(mask)
    assert (encoded.code.span, encoded.fillers, encoded.size, encoded.count) == (1, 4, 9, 4)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_no_span_is_cheaper(gaps):
    mask = np.zeros(sum(gaps) + len(gaps) + 1, bool)
    mask[np.cumsum(np.array(gaps) + 1) - 1] = True
    histogram = gap_histogram(mask)
    assert sum(position_bits(histogram)) == min(total_bits(gaps, span) for span in range(1, max(gaps) + 2))


@pytest.mark.parametrize(("shape", "excess"), [(0.4, 1.0005), (0.5, 1.0005), (0.7, 1.0001)])
def test_the_search_over_large_spans_loses_next_to_nothing(shape, excess):
    gaps = (np.random.default_rng(0).weibull(shape, 20_000) * 20).astype(np.int64)  # clustered weights
    mask = np.zeros(int(gaps.sum()) + len(gaps) + 1, bool)
    mask[np.cumsum(gaps + 1) - 1] = True
    histogram = gap_histogram(mask)

    def bits(span):
        counts = histogram.symbol_counts(span)
        lengths = codeword_lengths(counts)
        return counts @ lengths + table_bits(lengths)

    best = min(range(1, 1000), key=bits)
    assert 64 < best < 900
    assert bits(best) <= sum(position_bits(histogram)) <= excess * bits(best)


def binary_entropy(q):
    return -(q * np.log2(q) + (1 - q) * np.log2(1 - q))


@pytest.mark.parametrize(("q", "excess"), [(0.01, 1.03), (0.09, 1.02), (0.3, 1.02), (0.7, 1.14)])
def test_random_positions_cost_little_more_than_their_entropy(q, excess):
    mask = np.random.default_rng(1).random(200_000) < q
    bits, count = sum(position_bits(gap_histogram(mask))), mask.sum()
    floor = mask.size * binary_entropy(count / mask.size)
    assert floor * 0.999 <= bits <= excess * floor


def test_a_table_does_not_pay_for_gaps_that_occur_once():
    mask = np.zeros(1_000_000, bool)
    mask[np.random.default_rng(2).choice(mask.size, 100, replace=False)] = True
    assert sum(position_bits(gap_histogram(mask))) >= mask.size * binary_entropy(1e-4)


def test_full_and_empty_tensors_take_no_bits():
    for mask in (np.ones(50, bool), np.zeros(50, bool), np.zeros(0, bool)):
        encoded = encode_positions(mask)
        assert (encoded.data, encoded.code) == (b"", None)
        assert walked(encoded) == np.flatnonzero(mask).tolist()
        assert position_bits(gap_histogram(mask)) == (0, 0)


@pytest.mark.parametrize("densities", [(0.5, 0.02), (0.02, 0.5, 0.02, 0.5), (0.1, 0.1, 0.1)])
def test_grouping_is_never_worse_than_one_table_or_a_table_each(densities):
    rng = np.random.default_rng(4)
    histograms = [gap_histogram(rng.random(20_000) < q) for q in densities]
    histograms.insert(1, gap_histogram(np.ones(9, bool)))
    groups = group_tables(histograms, progress=False)
    assert sorted(i for group in groups for i in group) == [i for i in range(len(histograms)) if i != 1]
    cost = sum(sum(position_bits(reduce(add, [histograms[i] for i in group]))) for group in groups)
    assert cost <= sum(position_bits(reduce(add, histograms)))
    assert cost <= sum(sum(position_bits(h)) for h in histograms)
    assert len(groups) == len(set(densities))


def test_a_shared_code_without_a_codeword_for_a_gap_is_refused():
    code = GapCode(HuffmanCode([1, 0, 1]))
    with pytest.raises(ValueError, match="symbols must have codewords"):
        encode_positions([True, False, True, False], code=code)
    with pytest.raises(ValueError, match="histogram is empty"):
        gap_code(gap_histogram(np.ones(3, bool)))
