"""The histogram against ``reference``."""

import numpy as np
import pytest
import torch

from nbquant.kernels import reference
from nbquant.kernels.cuda import histogram as module
from nbquant.kernels.cuda.histogram import histogram
from nbquant.kernels.keys import JOINT_SHIFT, MARGINAL_SHIFT
from tests.kernels.samples import DTYPES, awkward, draw

SHIFTS = MARGINAL_SHIFT, JOINT_SHIFT


def check(weight, h, shifts, device):
    there = weight.to(device), None if h is None else h.to(device)
    found = histogram(*there, *shifts)
    expected = reference.marginal_histogram(weight, h, shifts[0])
    assert found[0].tolist() == expected[0].tolist()
    np.testing.assert_allclose(found[1], expected[1].numpy(), rtol=1e-12)
    if h is None or shifts[1] is None:
        assert found[2].shape == (0,)
        assert found[3].shape == (0, 4)
        return
    expected = reference.joint_histogram(weight, h, shifts[1])
    assert found[2].tolist() == expected[0].tolist()
    np.testing.assert_allclose(found[3], expected[1].numpy(), rtol=1e-12)


def with_zeros(n, dtype):
    weight, h = draw(n, dtype)
    weight[3::7], h[2::5] = 0, 0
    return weight, h


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 17, 1301])
@pytest.mark.parametrize("weighted", [True, False])
def test_it_is_the_references(n, dtype, weighted, device):
    weight, h = with_zeros(n, dtype)
    check(weight, h if weighted else None, SHIFTS, device)


@pytest.mark.parametrize("shifts", [(10, 14), (14, None), (18, 16), (24, 25), (0, 0)])
def test_any_shift_is_the_references(shifts, device):
    check(*with_zeros(601, torch.float32), shifts, device)


@pytest.mark.parametrize("dtype", DTYPES)
def test_awkward_values(dtype, device):
    check(*awkward(dtype), SHIFTS, device)


def test_nothing_and_zeros_only(device):
    check(torch.zeros(0), torch.zeros(0), SHIFTS, device)
    check(torch.zeros(700), torch.zeros(700), SHIFTS, device)
    check(-torch.zeros(700), None, SHIFTS, device)


@pytest.mark.parametrize("outliers", [5, 600])
def test_what_the_sample_missed_is_listed_or_left_to_the_reference(outliers, device, monkeypatch):
    monkeypatch.setattr("nbquant.kernels.cuda.sample.SAMPLE", 1)  # the first weight alone
    monkeypatch.setattr(module, "SLAB", 512)
    weight, h = draw(1500, torch.float32)
    weight = weight.sign() * (1 + weight.abs() / 8)
    h = 1 + h / 1e5
    weight[1 : 1 + outliers] *= 1e6
    h[2 : 2 + outliers] = -1e-9
    check(weight, h, SHIFTS, device)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_makes_a_sum_that_is_not(bad, device):
    weight, h = draw(600, torch.float32)
    for values in (weight, h):
        spoilt = values.clone()
        spoilt[7] = bad
        pair = (spoilt, h) if values is weight else (weight, spoilt)
        assert not np.isfinite(histogram(*(v.to(device) for v in pair), *SHIFTS)[1]).all()
