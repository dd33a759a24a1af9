"""The k-means table against all partitions."""

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nbquant.kernels import reference
from nbquant.kernels.cpu import kmeans as cpu


def prefix_of(mass, position):
    terms = np.stack([mass, mass * position, mass * position**2], axis=1)
    return np.vstack([np.zeros(3), np.cumsum(terms, axis=0)])


def interval_loss(mass, position):
    if mass.sum() == 0:
        return 0.0
    centre = (mass * position).sum() / mass.sum()
    return float((mass * (position - centre) ** 2).sum())


def partitions(m, k):
    return ([0, *cut, m] for cut in combinations(range(1, m), k - 1))


bins = st.lists(st.tuples(st.integers(-20, 20), st.sampled_from([0.0, 0.25, 1.0, 8.0])), min_size=1, max_size=8)


@given(bins)
@settings(max_examples=80)
def test_kmeans_table_is_the_best_of_all_partitions(drawn):
    position = np.unique([p for p, _ in drawn]).astype(float)
    mass = np.array([mass for _, mass in drawn])[: len(position)]
    prefix = prefix_of(mass, position)
    m = len(position)
    tables = [cpu.kmeans_table(prefix, m), [t.numpy() for t in reference.kmeans_table(torch.from_numpy(prefix), m)]]
    for k in range(1, m + 1):
        best = min(sum(interval_loss(mass[a:b], position[a:b]) for a, b in pairwise(e)) for e in partitions(m, k))
        for total, start in tables:
            assert total[k - 1] == pytest.approx(best, abs=1e-9)
            edges = [m]
            for level in range(k, 0, -1):
                edges.append(int(start[level - 1, edges[-1]]))
            edges.reverse()
            assert edges[0] == 0
            assert all(a < b for a, b in pairwise(edges)), "an empty cluster"
            got = sum(interval_loss(mass[a:b], position[a:b]) for a, b in pairwise(edges))
            assert got == pytest.approx(best, abs=1e-9)


def test_kmeans_table_is_the_references_where_no_list_of_partitions_reaches():
    random = np.random.default_rng(3)
    position = np.sort(random.standard_normal(301))
    mass = np.exp(3 * random.standard_normal(301)) * (random.random(301) < 0.7)
    prefix = prefix_of(mass, position)
    total, start = cpu.kmeans_table(prefix, 40)
    expected, _ = reference.kmeans_table(torch.from_numpy(prefix), 40)
    np.testing.assert_allclose(total, expected.numpy(), rtol=1e-9, atol=1e-9)
    assert (np.diff(total) <= 1e-12).all()
    assert start.max() < 301


def test_kmeans_table_of_one_bin():
    total, start = cpu.kmeans_table(prefix_of(np.ones(1), np.array([2.0])), 1)
    assert total == pytest.approx([0])
    assert start.tolist() == [[0, 0]]


def loss_at_zero(mass, position):
    return float((mass * position**2).sum())


@given(bins)
@settings(max_examples=80)
def test_pinned_table_is_the_best_of_all_partitions_with_one_cluster_at_zero(drawn):
    position = np.unique([p for p, _ in drawn]).astype(float)
    mass = np.array([mass + 1e-9 for _, mass in drawn])[: len(position)]
    prefix = prefix_of(mass, position)
    m = len(position)
    tables = [
        cpu.pinned_kmeans_table(prefix, m),
        [t.numpy() for t in reference.pinned_kmeans_table(torch.from_numpy(prefix), m)],
    ]
    for k in range(1, m + 1):
        best = min(
            sum(
                (loss_at_zero if c == pinned else interval_loss)(mass[a:b], position[a:b]) for c, (a, b) in enumerate(p)
            )
            for e in partitions(m, k)
            for p in [list(pairwise(e))]
            for pinned in range(k)
        )
        for total, free_start, start, is_zero in tables:
            assert total[k - 1] == pytest.approx(best, abs=1e-8)
            end, pinned, got = m, False, 0.0
            for level in range(k, 0, -1):
                here = not pinned and bool(is_zero[level - 1, end])
                begin = int((free_start if pinned else start)[level - 1, end])
                assert begin < end, "an empty cluster"
                got += (loss_at_zero if here else interval_loss)(mass[begin:end], position[begin:end])
                end, pinned = begin, pinned or here
            assert pinned
            assert end == 0
            assert got == pytest.approx(best, abs=1e-8)


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.booleans())
@settings(max_examples=60)
def test_lloyd_never_raises_the_loss_nor_empties_a_cluster(seed, k, pinned):
    random = np.random.default_rng(seed)
    position = np.sort(random.standard_normal(60))
    mass = np.exp(2 * random.standard_normal(60))
    edges = np.concatenate([[0], np.sort(random.choice(np.arange(1, 60), k - 1, replace=False)), [60]])
    zero = int(random.integers(k)) if pinned else -1

    def loss(e):
        parts = enumerate(pairwise(e))
        return sum((loss_at_zero if c == zero else interval_loss)(mass[a:b], position[a:b]) for c, (a, b) in parts)

    found = cpu.lloyd(position, prefix_of(mass, position), edges, zero, 30)
    assert (np.diff(found) > 0).all()
    assert (found[0], found[-1]) == (0, 60)
    if zero < 0:  # at zero the nearest centre need not have been the cluster's before
        assert loss(found) <= loss(edges) * (1 + 1e-9)
