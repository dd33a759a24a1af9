"""ECSQ on cells against all costs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    assert (np.diff(history) <= 1e-12 * history[:-1]).all()
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
