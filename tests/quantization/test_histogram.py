"""Histograms add; cells hold what the weights hold."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nbquant.quantization.histogram import EXACT_BELOW, Cells, Histogram

FLOATS = st.floats(-1e6, 1e6, width=32)
SENSITIVITIES = st.floats(0, 1e6, width=32)


def cells_of(weight, sensitivity, weighted=True, rows=True):
    return Cells.of_weights(weight.double().numpy(), sensitivity.double().numpy(), weighted, rows)


@given(st.lists(st.tuples(FLOATS, SENSITIVITIES), min_size=1, max_size=60), st.data())
@settings(max_examples=60)
def test_parts_add_to_the_whole_wherever_it_is_cut(pairs, data):
    weight, h = torch.tensor(pairs).T
    cuts = sorted(data.draw(st.lists(st.integers(0, len(pairs)), max_size=3)))
    edges = [0, *cuts, len(pairs)]
    parts = [Histogram.of(weight[a:b], h[a:b]) for a, b in itertools.pairwise(edges)]
    whole, merged = Histogram.of(weight, h), Histogram.merge(parts)
    assert whole.key.tolist() == merged.key.tolist()
    np.testing.assert_allclose(whole.sums, merged.sums, rtol=1e-12, atol=1e-12 * np.abs(whole.sums).max())
    assert len(merged) == len(pairs)
    assert merged.zeros == int((weight == 0).sum())


def test_without_sensitivity_it_is_one():
    weight = torch.tensor([0.5, -0.25, 0.5])
    assert Histogram.of(weight).sums[:, 3].tolist() == [1, 2]


def test_zeros_of_either_sign_are_left_out():
    h = Histogram.of(torch.tensor([[0.0, -0.0, 1e-45], [2.0, 0.0, -3.0]]))
    assert (len(h), h.zeros, len(h.without_zeros()), h.without_zeros().zeros) == (6, 3, 3, 0)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("rows", [True, False])
def test_cells_hold_what_the_weights_hold(weighted, rows):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(3000, generator=generator)
    h = torch.randn(3000, generator=generator).mul(3).exp() * (torch.rand(3000, generator=generator) < 0.7)
    w, s = weight.double().numpy(), h.double().numpy()
    mass = s if weighted else np.full_like(s, s.mean())
    for cells in (Cells.of_histogram(Histogram.of(weight, h), weighted, rows), cells_of(weight, h, weighted, rows)):
        assert cells.count == 3000
        np.testing.assert_allclose(cells.prefix[-1], [3000, mass.sum(), mass @ w, mass @ w**2], rtol=1e-9)
        np.testing.assert_allclose(cells.true_prefix[-1], [3000, s.sum(), s @ w, s @ w**2], rtol=1e-9)
        assert (np.diff(cells.row_sensitivity) > 0).all()
        assert cells.row_start[-1] == len(cells.position)
        for a, b in zip(cells.row_start, cells.row_start[1:], strict=False):
            assert (np.diff(cells.position[a:b]) > 0).all()
        assert (len(cells.row_sensitivity) == 1) == (not (rows and weighted))


def test_rows_hold_like_sensitivities():
    generator = torch.Generator().manual_seed(2)
    h = torch.randn(2000, generator=generator).mul(3).exp()
    cells = Cells.of_histogram(Histogram.of(torch.randn(2000, generator=generator), h), True, True)
    mean = np.diff(cells.prefix[:, 1]) / np.diff(cells.prefix[:, 0])
    row = np.repeat(cells.row_sensitivity, np.diff(cells.row_start))
    assert (mean / row).min() > 2**-0.6
    assert (mean / row).max() < 2**0.6


def test_no_sensitivity_at_all_counts_all_alike():
    cells = cells_of(torch.tensor([1.0, 2.0, 4.0]), torch.zeros(3))
    assert cells.prefix[-1].tolist() == [3, 3, 7, 21]
    assert cells.true_prefix[-1].tolist() == [3, 0, 0, 0]


@pytest.mark.parametrize("distinct", [1, 7, EXACT_BELOW, EXACT_BELOW + 1, 3 * EXACT_BELOW])
def test_cells_of_distinct_weights(distinct):
    weight = torch.arange(distinct).repeat(2).flip(0) / 8 - 3
    mass = torch.rand(len(weight), generator=torch.Generator().manual_seed(0))
    cells = Cells.of_distinct(weight, mass)
    assert len(cells.position) == min(distinct, EXACT_BELOW)
    assert cells.count == 2 * distinct
    np.testing.assert_allclose(cells.prefix[-1, 2], (mass.double() @ weight.double()).item(), rtol=1e-9)
    if distinct <= EXACT_BELOW:
        assert cells.position.tolist() == weight.unique().tolist()
    else:  # none holds far more than another
        assert np.diff(cells.prefix[:, 0]).max() <= 2 * -(-distinct // EXACT_BELOW)
