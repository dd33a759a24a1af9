"""Curves of distortion over rate beyond their points."""

import math

import numpy as np
import pytest
import torch

import nbquant as nq
from nbquant.analysis.log_curve import LogCurve, bound_curve
from nbquant.analysis.statistics import Statistics


def test_rate_and_distortion_are_inverse_within_and_beyond_the_points():
    curve = LogCurve.of(np.array([1.0, 3.0]), np.array([0.1, 0.001]), 1.0)
    for rate in (0.5, 1.0, 2.0, 3.0, 7.0):
        assert curve.rate(curve.distortion(rate)) == pytest.approx(rate)
    assert curve.distortion(0.0) == pytest.approx(1.0)
    assert curve.distortion(4.0) == pytest.approx(0.0001)  # the last slope, which is steeper than 6 dB per bit


def test_beyond_the_points_it_falls_by_no_less_than_6_db_per_bit():
    curve = LogCurve.of(np.array([1.0, 3.0]), np.array([0.1, 0.09]), 1.0)
    assert curve.distortion(4.0) == pytest.approx(0.09 / 4)


@pytest.mark.parametrize("seed", range(3))
def test_the_bound_of_few_weights_is_below_what_a_format_stores(seed):
    """The slope between two points of a few weights says nothing about higher rates."""
    torch.manual_seed(seed)
    selection = nq.select(torch.nn.LayerNorm(128), layers="weight")
    weight = 0.9 + 0.05 * torch.randn(128)
    selection.tensors[0].weight.data.copy_(weight)
    rows = nq.compare_formats(selection, ["q8_0", "q6_k"], progress=False)
    assert (rows["bits_wasted"] > 0).all()
    assert bound_curve(Statistics.of(selection))._slope >= 2 * math.log(2)
