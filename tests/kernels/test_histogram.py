"""The histogram kernels against ``reference``."""

import numpy as np
import pytest
import torch

from nbquant.kernels import dispatch, reference
from tests.kernels.samples import DTYPES, SAMPLES, draw


def same_histogram(a, b):
    assert a[0].tolist() == b[0].tolist()
    np.testing.assert_allclose(np.asarray(a[1]), np.asarray(b[1]), rtol=1e-12)


@pytest.mark.parametrize(("weight", "sensitivity"), SAMPLES)
def test_joint_histogram_is_the_references(weight, sensitivity):
    same_histogram(dispatch.joint_histogram(weight, sensitivity), reference.joint_histogram(weight, sensitivity))


@pytest.mark.parametrize("dtype", DTYPES)
def test_histogram_of_nothing(dtype):
    for kernel in (dispatch.joint_histogram, reference.joint_histogram):
        key, sums = kernel(torch.zeros(0, dtype=dtype), torch.zeros(0, dtype=dtype))
        assert key.shape == (0,)
        assert sums.shape == (0, 6)


@pytest.mark.parametrize(("weight", "sensitivity"), SAMPLES)
def test_histogram_loses_nothing(weight, sensitivity):
    _, sums = dispatch.joint_histogram(weight, sensitivity)
    w, h = weight.double().numpy(), sensitivity.double().numpy()
    whole = [len(w), w.sum(), (w * w).sum(), h.sum(), (h * w).sum(), (h * w * w).sum()]
    scale = [len(w), np.abs(w).sum(), (w * w).sum(), h.sum(), np.abs(h * w).sum(), (h * w * w).sum()]
    assert (np.abs(sums.sum(axis=0) - whole) <= 1e-12 * np.array(scale)).all()


@pytest.mark.parametrize("tiny", [2.0**-149, 1e-300], ids=["subnormal", "below-float32"])
def test_only_exact_zero_is_in_the_zero_bin(tiny):
    weight = torch.tensor([0.0, -0.0, tiny, -tiny, 1.0, -1.0], dtype=torch.float64)
    key, sums = dispatch.joint_histogram(weight, torch.ones_like(weight))
    bins = (key % reference.WEIGHT_BINS).tolist()
    assert bins == sorted(bins)
    assert sums[bins.index(reference.ZERO_BIN), 0] == 2
    assert bins[1:4] == [reference.ZERO_BIN - 1, reference.ZERO_BIN, reference.ZERO_BIN + 1]


def test_bins_are_monotone_and_a_128th_of_an_octave():
    weight = torch.cat([-torch.logspace(30, -30, 4001), torch.zeros(1), torch.logspace(-30, 30, 4001)])
    bins = reference.weight_bin(weight)
    assert bool((bins.diff() >= 0).all())
    one_to_two = torch.arange(1, 2, 2.0**-12)
    assert len(reference.weight_bin(one_to_two).unique()) == 128
    assert bool((reference.weight_bin(-one_to_two) + reference.weight_bin(one_to_two) == 2 * reference.ZERO_BIN).all())


def test_rows_are_half_octaves():
    h = torch.tensor([0.0, -0.0, 1.0, 1.49, 1.5, 1.99, 2.0, 3.0])
    rows = reference.sensitivity_row(h)
    assert (rows - rows[2]).tolist()[2:] == [0, 0, 1, 1, 2, 3]
    assert rows[:2].tolist() == [0, 0]


def test_an_outlier_spoils_no_bin():
    weight, h = draw(4096, torch.float32)
    before, _ = dispatch.joint_histogram(weight, h)
    after, _ = dispatch.joint_histogram(torch.cat([weight, torch.tensor([1000.0])]), torch.cat([h, torch.ones(1)]))
    assert set(before.tolist()) <= set(after.tolist())
    assert len(after) == len(before) + 1
