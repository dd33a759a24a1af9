"""Histograms add; cells hold what the weights hold."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nbquant.quantization.histogram import EXACT_UP_TO, FEW_BINS, Cells, Histogram

FLOATS = st.floats(-1e6, 1e6, width=32)
SENSITIVITIES = st.floats(0, 1e6, width=32)


def draw(n, scale=3.0, seed=1):
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(n, generator=generator).mul(scale).exp() * (torch.rand(n, generator=generator) < 0.7)
    return torch.randn(n, generator=generator), h


@given(st.lists(st.tuples(FLOATS, SENSITIVITIES), min_size=1, max_size=60), st.data())
@settings(max_examples=60)
def test_parts_add_to_the_whole_wherever_it_is_cut(pairs, data):
    weight, h = torch.tensor(pairs).T
    cuts = sorted(data.draw(st.lists(st.integers(0, len(pairs)), max_size=3)))
    edges = [0, *cuts, len(pairs)]
    parts = [Histogram.of(weight[a:b], h[a:b]) for a, b in itertools.pairwise(edges)]
    whole, merged = Histogram.of(weight, h), Histogram.merge(parts)
    for a, b in ((whole.marginal, merged.marginal), (whole.joint, merged.joint)):
        assert a.key.tolist() == b.key.tolist()
        np.testing.assert_allclose(a.sums, b.sums, rtol=1e-12, atol=1e-12 * np.abs(a.sums).max())
    assert len(merged) == len(pairs)
    assert merged.zeros == int((weight == 0).sum())


def test_few_weights_are_held_one_by_one():
    weight = torch.arange(2 * 500).repeat(2) / 1e6 + 1
    histogram = Histogram.of(weight, torch.ones_like(weight))
    assert len(histogram.marginal.key) == len(histogram.joint.key) == 1000
    cells = Cells.of_histogram(histogram, True, False)
    assert cells.position == pytest.approx(weight[:1000].double().numpy(), rel=1e-15)


def test_weights_that_are_much_the_same_get_finer_bins():
    near_one = 1 + 0.01 * draw(2 * EXACT_UP_TO)[0]
    histogram = Histogram.of(near_one, torch.ones_like(near_one))
    assert 250 < len(histogram.marginal.key) < FEW_BINS
    assert len(histogram.joint.key) > 20


def test_bins_of_two_widths_are_put_in_order():
    wide, narrow = draw(3 * EXACT_UP_TO)[0], draw(2000, seed=2)[0]
    both = Histogram.merge(Histogram.of(w, torch.ones_like(w)) for w in (wide, narrow))
    for rows in (True, False):
        cells = Cells.of_histogram(both, True, rows)
        assert (np.diff(cells.position) >= 0).all()
        assert cells.count == 3 * EXACT_UP_TO + 2000


def test_without_sensitivity_it_is_one():
    histogram = Histogram.of(torch.tensor([0.5, -0.25, 0.5]))
    assert histogram.marginal.sums[:, 1].tolist() == [1, 2]
    ones = Histogram.of(torch.tensor([0.5, -0.25, 0.5]), torch.ones(3))
    assert histogram.joint.key.tolist() == ones.joint.key.tolist()
    assert histogram.joint.sums == pytest.approx(ones.joint.sums)


def test_zeros_of_either_sign_are_left_out():
    h = Histogram.of(torch.tensor([[0.0, -0.0, 1e-45], [2.0, 0.0, -3.0]]))
    assert (len(h), h.zeros, len(h.without_zeros()), h.without_zeros().zeros) == (6, 3, 3, 0)


@pytest.mark.parametrize("n", [3000, 3 * EXACT_UP_TO], ids=["few", "many"])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("rows", [True, False])
def test_cells_hold_what_the_weights_hold(weighted, rows, n):
    weight, h = draw(n)
    w, s = weight.double().numpy(), h.double().numpy()
    mass = s if weighted else np.full_like(s, s.mean())
    cells = Cells.of_histogram(Histogram.of(weight, h), weighted, rows)
    assert cells.count == n
    # Where h is left out, the mean within a bin is that of its weights by h: a bin's width is all it can be off.
    within = 1e-9 if weighted or n <= EXACT_UP_TO else 2e-3
    np.testing.assert_allclose(cells.prefix[-1, :2], [n, mass.sum()], rtol=1e-9)
    np.testing.assert_allclose(cells.prefix[-1, 2], mass @ w, rtol=0, atol=within * (mass @ np.abs(w)))
    np.testing.assert_allclose(cells.prefix[-1, 3], mass @ w**2, rtol=within)
    np.testing.assert_allclose(cells.true_prefix[-1], [n, s.sum(), s @ w, s @ w**2], rtol=1e-9)
    assert (np.diff(cells.row_sensitivity) > 0).all()
    assert cells.row_start[-1] == len(cells.position)
    for a, b in itertools.pairwise(cells.row_start):
        assert (np.diff(cells.position[a:b]) > 0).all()
    assert (len(cells.row_sensitivity) == 1) == (not (rows and weighted))


def test_rows_hold_like_sensitivities():
    weight, _ = draw(2000)
    h = draw(2000, seed=2)[0].mul(3).exp()
    cells = Cells.of_histogram(Histogram.of(weight, h), True, True)
    mean = np.diff(cells.prefix[:, 1]) / np.diff(cells.prefix[:, 0])
    row = np.repeat(cells.row_sensitivity, np.diff(cells.row_start))
    assert (mean / row).min() > 2**-0.6
    assert (mean / row).max() < 2**0.6


def test_no_sensitivity_at_all_counts_all_alike():
    histogram = Histogram.of(torch.tensor([1.0, 2.0, 4.0]), torch.zeros(3))
    for rows in (True, False):
        cells = Cells.of_histogram(histogram, True, rows)
        assert cells.prefix[-1] == pytest.approx([3, 3, 7, 21])
        assert cells.true_prefix[-1] == pytest.approx([3, 0, 0, 0])


@pytest.mark.parametrize("n", [3000, 3 * EXACT_UP_TO], ids=["few", "many"])
def test_damping_the_histogram_is_the_histogram_of_damped_sensitivities(n):
    weight, h = draw(n, scale=1.0)
    offset = 0.3
    damped, anew = Histogram.of(weight, h).damped(offset), Histogram.of(weight, h + offset)
    within = 1e-6 if n <= EXACT_UP_TO else 1e-3
    for rows in (True, False):
        a, b = (Cells.of_histogram(x, True, rows).prefix[-1] for x in (damped, anew))
        np.testing.assert_allclose(a[[0, 1, 3]], b[[0, 1, 3]], rtol=within)
        assert abs(a[2] - b[2]) < within * float((h.double() + offset) @ weight.double().abs())


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda w, h: w.__setitem__(3, torch.nan), r"weights must be finite, but 1 of .* in 'fc1.weight'.*1 NaN"),
        (lambda w, h: w.__setitem__(3, -torch.inf), r"weights must be finite, but 1 of .* in 'fc1.weight'.*1 infinite"),
        (lambda w, h: h.__setitem__(3, torch.inf), r"sensitivities must be finite, but 1 of"),
        (lambda w, h: h.__setitem__(slice(2, 4), -1.0), r"sensitivity must be non-negative, but 2 of"),
    ],
)
@pytest.mark.parametrize("n", [40, 2 * EXACT_UP_TO])
def test_what_cannot_be_is_told_with_name_and_number(spoil, match, n):
    weight, h = draw(n)
    spoil(weight, h)
    with pytest.raises(ValueError, match=match):
        Histogram.of(weight, h, "fc1.weight")


def test_products_too_large_for_any_float_are_told():
    weight = torch.tensor([1e200, 1.0], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"sums of h·w² must be finite, but those of 'weight' are not, with .*1e\+200"):
        Histogram.of(weight, torch.ones(2, dtype=torch.float64))


def test_where_all_sensitivities_are_alike_the_finer_bins_are_taken():
    weight, _ = draw(2 * EXACT_UP_TO)
    histogram = Histogram.of(weight, torch.full_like(weight, 1.1))
    assert len(histogram.joint.key) < len(histogram.marginal.key)
    cells = Cells.of_histogram(histogram, True, True)
    assert len(cells.position) == len(histogram.marginal.key)
    assert cells.row_sensitivity == pytest.approx([1.1])
