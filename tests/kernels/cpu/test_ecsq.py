"""ECSQ on cells against all costs, and on intervals against all partitions."""

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nbquant.kernels import reference
from nbquant.kernels.cpu import ecsq as cpu


def grid(row_sensitivity, positions, seed=0):
    """Cells of one weight each: rows of equal h, and running sums of n, h, hw, hw²."""
    w = np.concatenate(positions)
    h = np.repeat(row_sensitivity, [len(p) for p in positions])
    row_start = np.concatenate([[0], np.cumsum([len(p) for p in positions])])
    terms = np.stack([np.ones_like(w), h, h * w, h * w * w], axis=1)
    return row_start, np.asarray(row_sensitivity, float), w, np.vstack([np.zeros(4), np.cumsum(terms, axis=0)]), h


@given(st.integers(1, 9), st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=150)
def test_envelope_is_argmin_over_all_codewords(levels, seed, equal):
    random = np.random.default_rng(seed)
    rows = np.array([0.0, 1e-6, 0.1, 1.0, 50.0])
    row_start, row_h, w, prefix, h = grid(rows, [np.sort(random.normal(0, 2, 40)) for _ in rows])
    codebook = np.sort(random.normal(0, 2, levels))
    if equal and levels > 1:
        codebook[1:] = np.where(random.random(levels - 1) < 0.5, codebook[:-1], codebook[1:])
        codebook.sort()
    price = 10.0 ** random.uniform(-6, 1) * random.integers(1, 9, levels)
    sums = cpu.ecsq_sums(row_start, row_h, w, prefix, codebook, price)
    chosen = (0.5 * h[:, None] * (w[:, None] - codebook) ** 2 + price).argmin(axis=1)
    expected = np.zeros((levels, 4))
    np.add.at(expected, chosen, np.diff(prefix, axis=0))
    np.testing.assert_allclose(sums, expected, rtol=1e-9, atol=1e-9)


def test_codeword_that_never_wins_has_no_members():
    row_start, row_h, w, prefix, _ = grid([1.0], [np.linspace(-1, 1, 21)])
    sums = cpu.ecsq_sums(row_start, row_h, w, prefix, np.array([-1.0, 0.0, 1.0]), np.array([0.1, 5.0, 0.1]))
    assert sums[:, 0].tolist() == [11, 0, 10]  # the tie at zero goes to the lower


def test_the_least_h_and_gap_do_not_divide_by_zero():
    row_start, row_h, w, prefix, _ = grid([1e-200], [np.array([0.0, 1e-150])])
    sums = cpu.ecsq_sums(row_start, row_h, w, prefix, np.array([0.0, 1e-150]), np.array([2.0, 1.0]))
    assert sums[:, 0].tolist() == [0, 2]


@given(st.integers(0, 2**32 - 1), st.floats(-4, 1), st.integers(1, 30))
@settings(max_examples=60)
def test_ecsq_never_raises_its_cost(seed, log_lmbda, levels):
    random = np.random.default_rng(seed)
    h = np.unique(np.exp(2 * random.standard_normal(30))) * (np.arange(30) > 3)
    row_start, row_h, w, prefix, per_weight = grid(
        np.unique(h), [np.sort(random.normal(0, 1, 9)) for _ in np.unique(h)]
    )
    start = np.sort(random.normal(0, 1, levels))
    lmbda = 10.0**log_lmbda
    codebook, length, history = cpu.ecsq_iterate(
        row_start, row_h, w, prefix, start, np.full(levels, np.log2(levels)), lmbda, 1e-9, 200
    )
    assert (np.diff(history) <= 0).all()
    assert (np.diff(codebook) >= 0).all()
    assert np.exp2(-length).sum() == pytest.approx(1)
    # What it says it costs is what it costs: J of the last assignment, brute force.
    chosen = (0.5 * per_weight[:, None] * (w[:, None] - codebook) ** 2 + lmbda * length).argmin(axis=1)
    loss = 0.5 * (per_weight * (w - codebook[chosen]) ** 2).mean() + lmbda * length[chosen].mean()
    assert loss <= history[-1] * (1 + 1e-9)


def test_ecsq_of_one_level_and_of_constant_weights():
    row_start, row_h, w, prefix, _ = grid([2.0], [np.full(5, 0.25)])
    codebook, length, history = cpu.ecsq_iterate(
        row_start, row_h, w, prefix, np.array([7.0]), np.zeros(1), 0.1, 1e-6, 10
    )
    assert (codebook.tolist(), length.tolist(), history[-1]) == ([0.25], [0.0], 0.0)


def lagrangian(w, h, codebook, length, lmbda):
    """J of the best assignment, brute force."""
    return (0.5 * h[:, None] * (w[:, None] - codebook) ** 2 + lmbda * length).min(axis=1).mean()


@given(st.integers(0, 2**32 - 1), st.floats(-4, 0), st.integers(2, 24))
@settings(max_examples=40)
def test_one_step_is_the_references(seed, log_lmbda, levels):
    random = np.random.default_rng(seed)
    rows = np.sort(np.exp(2 * random.standard_normal(12)))
    row_start, row_h, w, prefix, h = grid(rows, [np.sort(random.normal(0, 1, 20)) for _ in rows])
    start, length = np.sort(random.normal(0, 1, levels)), random.uniform(1, 6, levels)
    lmbda = 10.0**log_lmbda
    found = cpu.ecsq_iterate(row_start, row_h, w, prefix, start, length, lmbda, 0.0, 1)
    expected = reference.ecsq_iterate(
        torch.tensor(w), torch.tensor(h), torch.tensor(start), torch.tensor(length), lmbda, 0.0, 1
    )
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


@given(st.integers(0, 2**32 - 1), st.floats(-4, 0))
@settings(max_examples=40)
def test_where_it_ends_a_plain_step_gains_little(seed, log_lmbda):
    random = np.random.default_rng(seed)
    rows = np.sort(np.exp(2 * random.standard_normal(20)))
    row_start, row_h, w, prefix, h = grid(rows, [np.sort(random.normal(0, 1, 30)) for _ in rows])
    lmbda = 10.0**log_lmbda
    codebook, length, history = cpu.ecsq_iterate(
        row_start, row_h, w, prefix, np.linspace(-3, 3, 24), np.full(24, 5.0), lmbda, 1e-6, 1000
    )
    assert len(history) < 1000
    assert lagrangian(w, h, codebook, length, lmbda) >= history[-1] * (1 - 1e-5)


def test_momentum_ends_no_higher_than_the_plain_iteration_on_the_whole():
    ratios = []
    for seed in range(5):
        random = np.random.default_rng(seed)
        rows = np.sort(np.exp(2 * random.standard_normal(30)))
        row_start, row_h, w, prefix, h = grid(rows, [np.sort(random.laplace(0, 1, 100)) for _ in rows])
        start, length = np.linspace(-6, 6, 49), np.full(49, 5.6)
        lmbda = 10.0 ** random.uniform(-3, 0)
        ours = cpu.ecsq_iterate(row_start, row_h, w, prefix, start, length, lmbda, 1e-5, 100)[2]
        plain = reference.ecsq_iterate(
            torch.tensor(w), torch.tensor(h), torch.tensor(start), torch.tensor(length), lmbda, 1e-5, 100
        )[2]
        ratios.append(ours[-1] / plain[-1])
    assert np.mean(ratios) < 1
    assert max(ratios) < 1.01


def path_cost(prefix, edges, lmbda):
    n, s0, s1, s2 = np.diff(prefix[np.asarray(edges)], axis=0).T
    loss = 0.5 * (s2 - np.where(s0 > 0, s1**2 / np.where(s0 > 0, s0, 1), 0)).sum()
    return (loss + lmbda * (n * np.log2(prefix[-1, 0] / n)).sum()) / prefix[-1, 0]


def bins(random, m, zeros=False):
    """Running sums of bins with different counts and masses, some without mass."""
    w, n = np.sort(random.laplace(0, 1, m)), random.integers(1, 50, m).astype(float)
    h = n * np.exp(1.5 * random.standard_normal(m)) * (random.random(m) > 0.3 * zeros)
    return np.vstack([np.zeros(4), np.cumsum(np.stack([n, h, h * w, h * w * w], axis=1), axis=0)])


@given(st.integers(1, 10), st.integers(0, 2**32 - 1), st.floats(-5, 2), st.booleans())
@settings(max_examples=100)
def test_intervals_are_the_best_of_all_partitions(m, seed, log_lmbda, zeros):
    prefix = bins(np.random.default_rng(seed), m, zeros)
    lmbda = 10.0**log_lmbda
    edges, cost = cpu.ecsq_intervals(prefix, lmbda)
    least = min(path_cost(prefix, (0, *inner, m), lmbda) for k in range(m) for inner in combinations(range(1, m), k))
    assert cost == pytest.approx(least, rel=1e-9)
    assert path_cost(prefix, edges, lmbda) == pytest.approx(cost, rel=1e-9)
    assert edges[0] == 0
    assert edges[-1] == m


@given(st.integers(50, 200), st.integers(0, 2**32 - 1), st.floats(-5, 2))
@settings(max_examples=60)
def test_pruned_path_is_the_references(m, seed, log_lmbda):
    prefix = bins(np.random.default_rng(seed), m, zeros=True)
    edges, cost = cpu.ecsq_intervals(prefix, 10.0**log_lmbda)
    expected_edges, expected = reference.ecsq_intervals(torch.tensor(prefix), 10.0**log_lmbda)
    assert cost == pytest.approx(expected, rel=1e-9)
    assert len(edges) == len(expected_edges)


@pytest.mark.parametrize("lmbda", [0.3, 0.03, 0.003])
def test_intervals_are_the_optimum_where_all_h_are_equal(lmbda):
    random = np.random.default_rng(1)
    w = np.sort(random.laplace(0, 1, 400))
    row_start, row_h, position, prefix, _ = grid([1.0], [w])
    _, least = cpu.ecsq_intervals(prefix, lmbda)
    found = []
    for _ in range(60):
        start = np.unique(random.choice(w, random.integers(1, 80)))
        length = np.full(len(start), np.log2(len(start)))
        found.append(cpu.ecsq_iterate(row_start, row_h, position, prefix, start, length, lmbda, 1e-9, 500)[2][-1])
    assert least <= min(found) * (1 + 1e-12)
    assert min(found) < least * 1.2  # not that near at high rates


def test_intervals_of_no_loss_and_of_one_bin():
    edges, cost = cpu.ecsq_intervals(np.array([[0.0, 0, 0, 0], [5, 2, 1, 0.5]]), 0.1)
    assert (edges.tolist(), cost) == ([0, 1], 0.0)
    massless = np.stack([np.arange(6.0), *np.zeros((3, 6))], axis=1)
    assert cpu.ecsq_intervals(massless, 0.1)[0].tolist() == [0, 5]


def test_pairs_in_a_row_of_equal_bins_share_an_interval():
    w = np.array([-1.0, -1.0, 0.0, 0.0, 1.0, 1.0])
    _, _, _, prefix, _ = grid([1.0], [w])
    assert cpu.ecsq_intervals(prefix, 0.01)[0].tolist() == [0, 2, 4, 6]
    assert [b - a for a, b in pairwise(cpu.ecsq_intervals(prefix, 10.0)[0])] == [6]
