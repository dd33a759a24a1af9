"""Sums of choices of histograms against merging them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nbquant.analysis import sums as module
from nbquant.analysis.sums import HistogramSums
from nbquant.quantization.histogram import EXACT_UP_TO, Histogram


@pytest.fixture(scope="module")
def histograms():
    generator = torch.Generator().manual_seed(0)
    found = []
    for i, n in enumerate([3, 40, 2 * EXACT_UP_TO, 700, 5, 1, 90, 2 * EXACT_UP_TO, 64, 33, 12]):
        weight = torch.randn(n, generator=generator) * (torch.rand(n, generator=generator) < 0.8)
        found.append(Histogram.of(weight * (1 + i), torch.rand(n, generator=generator) * i))
    return tuple(found)


def same(a, b):
    for x, y in ((a.marginal, b.marginal), (a.joint, b.joint)):
        assert x.key.tolist() == y.key.tolist()
        np.testing.assert_allclose(x.sums, y.sums, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("together", [1, 2, 8])
@given(data=st.data())
@settings(max_examples=15)
def test_any_choices_in_any_order_are_what_merging_gives(together, histograms, data):
    sums = HistogramSums(histograms)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TOGETHER", together)
        for _ in range(4):
            chosen = sorted(data.draw(st.sets(st.integers(0, len(histograms) - 1), min_size=1)))
            same(sums.of(chosen), Histogram.merge(histograms[i] for i in chosen))


def test_a_histogram_that_comes_or_goes_adds_up_only_the_halves_it_is_in(histograms, monkeypatch):
    monkeypatch.setattr(module, "TOGETHER", 1)
    added = []
    sums = HistogramSums(histograms[:8])
    sums.of(range(8))
    real = module.kernels.add_at
    monkeypatch.setattr(module.kernels, "add_at", lambda *args: (added.append(1), real(*args)))
    sums.of([0, 1, 2, 4, 5, 6, 7])
    assert not added  # all the single ones are known
    sums.of(range(8))
    assert not added


def test_a_single_one_is_itself(histograms):
    assert HistogramSums(histograms).of([4]) is histograms[4]
