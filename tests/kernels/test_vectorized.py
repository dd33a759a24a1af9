"""The stand-ins against the compiled loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbquant.kernels import compiled, vectorized
from nbquant.kernels.cpu import ecsq, gaps, histogram, kmeans

pytestmark = pytest.mark.skipif(not compiled.AVAILABLE, reason="nothing to compare with")
seeds = st.integers(0, 2**32 - 1)


def same(a, b):
    for left, right in zip(a, b, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-9)


def bins(random, m):
    """Running sums over sorted bins, some of no mass, some equal."""
    position = np.sort(np.round(random.standard_normal(m), 2))
    mass = np.exp(2 * random.standard_normal(m)) * (random.random(m) < 0.8)
    return position, np.vstack(
        [np.zeros(3), np.cumsum(np.stack([mass, mass * position, mass * position**2], 1), axis=0)]
    )


@given(seeds)
@settings(max_examples=60)
def test_merge(seed):
    random = np.random.default_rng(seed)
    keys = [np.unique(random.integers(0, 30, random.integers(0, 20))) for _ in range(2)]
    parts = [x for key in keys for x in (key, random.random((len(key), 4)))]
    same(vectorized.merge(*parts), histogram.merge(*parts))


def test_add_at():
    sums, twin = np.zeros((3, 2)), np.zeros((3, 2))
    place, terms = np.array([0, 2, 2]), np.arange(6.0).reshape(3, 2)
    vectorized.add_at(sums, place, terms)
    histogram.add_at(twin, place, terms)
    assert sums.tolist() == twin.tolist() == [[0, 1], [0, 0], [6, 8]]


@given(st.lists(st.booleans(), max_size=40), st.integers(0, 9))
@settings(max_examples=60)
def test_count_gaps(mask, run):
    weight, found = np.array(mask, np.float32), []
    for count in (vectorized.count_gaps, gaps.count_gaps):
        short, long = np.zeros(3, np.int64), np.zeros(50, np.int64)
        found.append((*count(weight, run, short, long), short.tolist(), long.tolist()))
    assert found[0] == found[1]


@given(seeds, st.integers(1, 60))
@settings(max_examples=60)
def test_extend_and_put_last_at_zero(seed, m):
    random = np.random.default_rng(seed)
    _, prefix = bins(random, m)
    levels = int(random.integers(1, m + 1))
    with np.errstate(all="ignore"):
        best = np.concatenate([[np.inf], vectorized.interval_cost(prefix[0], prefix[1:])])
        for k in range(1, levels):
            new, first = np.full(m + 1, np.inf), np.zeros(m + 1, np.int32)
            vectorized.extend(prefix, best, k, new, first)
            expected, where = np.full(m + 1, np.inf), np.zeros(m + 1, np.int32)
            kmeans._extend(prefix, best, k, expected, where)
            same([new, first], [expected, where])
            arguments = [(new.copy(), first.copy(), np.zeros(m + 1, bool)) for _ in range(2)]
            vectorized.put_last_at_zero(prefix, best, k, *arguments[0])
            kmeans._put_last_at_zero(prefix, best, k, *arguments[1])
            same(*arguments)
            best = new


@given(seeds, st.integers(1, 12), st.booleans())
@settings(max_examples=60)
def test_lloyd(seed, k, pinned):
    random = np.random.default_rng(seed)
    position, prefix = bins(random, 60)
    edges = np.concatenate([[0], np.sort(random.choice(np.arange(1, 60), k - 1, replace=False)), [60]])
    zero = int(random.integers(k)) if pinned else -1
    with np.errstate(all="ignore"):
        found = vectorized.lloyd(position, prefix, edges, zero, 30)
    assert found.tolist() == kmeans.lloyd(position, prefix, edges, zero, 30).tolist()


@given(seeds, st.integers(1, 30), st.sampled_from([0.0, 0.01, 1.0, 100.0]))
@settings(max_examples=60)
def test_cell_sums_and_update(seed, k, lmbda):
    random = np.random.default_rng(seed)
    rows = int(random.integers(1, 6))
    row_start = np.concatenate([[0], np.cumsum(random.integers(0, 20, rows))])
    h = np.sort(random.choice([0.0, 1e-30, 1e-3, 0.1, 1.0, 7.0, 1e4], rows, replace=False))
    # Quarters: thresholds are exact, cells lie on them, and codewords coincide.
    row = np.repeat(np.arange(rows), np.diff(row_start))
    position = random.integers(-12, 13, len(row)) / 4
    position = position[np.lexsort([position, row])]
    n = random.random(len(row)) + 0.1
    terms = np.stack([n, n * h[row], n * h[row] * position, n * h[row] * position**2], axis=1)
    prefix = np.vstack([np.zeros(4), np.cumsum(terms, axis=0)])
    codebook, price = np.sort(random.integers(-8, 9, k) / 4), lmbda * random.integers(1, 4, k).astype(float)
    bound = np.zeros((rows, k), np.int32)
    with np.errstate(all="ignore"):
        sums = vectorized.cell_sums(row_start, h, position, prefix, codebook, price, bound)
        same([sums], [ecsq._sums(row_start, h, position, prefix, codebook, price, bound)])
        if len(row):
            same(vectorized.update(sums, codebook, n.sum(), lmbda), ecsq._update(sums, codebook, n.sum(), lmbda))


@given(seeds, st.integers(1, 40), st.sampled_from([1e-4, 0.01, 1.0]))
@settings(max_examples=60)
def test_ecsq_intervals(seed, m, lmbda):
    random = np.random.default_rng(seed)
    _, prefix = bins(random, m)
    prefix = np.hstack([np.cumsum(np.append(0, random.integers(1, 9, m)))[:, None], prefix])
    with np.errstate(all="ignore"):
        edges, cost = vectorized.ecsq_intervals(prefix, lmbda)
        # Several partitions may cost the same.
        loss = 0.5 * vectorized.interval_cost(prefix[edges[:-1], 1:], prefix[edges[1:], 1:])
    count, total = np.diff(prefix[edges, 0]), prefix[-1, 0]
    assert (edges[0], edges[-1]) == (0, m)
    assert (count > 0).all()
    right = pytest.approx(ecsq.ecsq_intervals(prefix, lmbda)[1], rel=1e-9, abs=1e-12)
    assert cost == right
    assert (loss + lmbda * count * np.log2(total / count)).sum() / total == right
