"""Reverse water-filling: sources with a known answer, what it owes, and how near error feedback comes."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import nbquant as nq
from nbquant.analysis.waterfilling import joint_loss, waterfilling
from nbquant.quantization.feedback import Feedback
from nbquant.quantization.integers import ideal_bits
from nbquant.quantization.moments import LayerMoments, Part
from nbquant.quantization.selection import Selection
from nbquant.quantization.tensor import SelectedTensor

PLACES = 1_000_000  # so many that moments are damped as little as was asked for


class Known:
    """Moments of a layer "l"."""

    def __init__(self, second, outputs, along=False):
        self.outputs = {"l": outputs}
        self.parts = {"l": Part("l.weight", along=along)}
        self.diagonals = {}
        self._second = second

    def moments(self, layer, changed):
        return LayerMoments((self._second[None],), None, self.outputs["l"], PLACES)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(weight, second, outputs=None, along=False):
    s = torch.ones(weight.shape[1 if along else 0]) if outputs is None else outputs
    return Selection((SelectedTensor("l.weight", "l", weight),), calibration=Known(second, s, along))


def of(selection, **options):
    return waterfilling(selection, damping=1e-9, output_damping=0.0, progress=False, **options)


def independent(h, w):
    return Selection((SelectedTensor("w", "w", w, h),))


def test_a_gaussian_source_of_one_variance_takes_half_a_bit_for_each_factor_of_two():
    w = gaussian(400)
    found = of(independent(torch.full_like(w, 3.0), w))
    worst = 1.5 * float(w.square().mean()) * 400
    for factor in (1, 2, 5, 16, 1e4):
        assert found.rate_at(worst / factor) == pytest.approx(0.5 * math.log2(factor), abs=1e-6)
    assert found.rate_at(2 * worst) == 0
    assert found.loss_at(3.0) == pytest.approx(worst / 64, rel=1e-6)


@pytest.mark.parametrize("level", [4.0, 1.0, 0.5, 0.03125])
def test_two_variances_against_the_closed_form(level):
    """Components of power 8 and 1, at water levels above, between and below."""
    w = torch.ones(100)
    h = torch.cat([torch.full((50,), 16.0), torch.full((50,), 2.0)])
    found = of(independent(h, w))
    loss = sum(50 * min(c, level) for c in (8, 1))
    rate = sum(0.5 * max(0.5 * math.log2(c / level), 0) for c in (8, 1))
    assert found.rate_at(loss) == pytest.approx(rate, abs=1e-9)


def test_the_slope_is_lmbda():
    found = of(independent(gaussian(3000, seed=1).exp(), gaussian(3000)))
    slope = -np.diff(found.predicted_loss) / np.diff(found.rate * found.weights)
    middle = np.sqrt(found.lmbda[1:] * found.lmbda[:-1])
    steady = found.rate[1:] > 0.05
    np.testing.assert_allclose(slope[steady], middle[steady], rtol=0.06)


def test_a_layer_is_a_source_in_the_eigenbasis_of_its_inputs():
    """Held to the components computed one by one."""
    second = gaussian(12, 12, seed=2)
    second = second @ second.T
    weight, outputs = gaussian(30, 12), gaussian(30, seed=3).exp()
    value, vector = torch.linalg.eigh(second.double())
    variance = (weight.double() @ vector).square().mean(0)
    power = 0.5 * outputs.double()[:, None] * (value * variance)
    found = of(layer(weight, second, outputs))
    for level in (0.5, 0.01, 1e-4):
        loss = float(power.clamp(max=level).sum())
        rate = float((0.5 * (power / level).log2().clamp(min=0)).mean())
        assert found.rate_at(loss) == pytest.approx(rate, abs=2e-3)


@pytest.mark.parametrize("spectrum", ["weights", "even"])
def test_a_rotation_of_the_inputs_changes_nothing(spectrum):
    second = gaussian(16, 16, seed=2)
    second, turn = second @ second.T, torch.linalg.qr(gaussian(16, 16, seed=5))[0]
    weight = gaussian(40, 16)
    plain, turned = (
        of(layer(weight, second), spectrum=spectrum),
        of(layer(weight @ turn, turn.T @ second @ turn), spectrum=spectrum),
    )
    for loss in plain.loss_at(0.5), plain.loss_at(3.0):
        assert turned.rate_at(loss) == pytest.approx(plain.rate_at(loss), abs=2e-3)


def test_a_layer_along_its_inputs_is_the_transposed_one():
    second = gaussian(16, 16, seed=2)
    second, weight = second @ second.T, gaussian(40, 16)
    rows, along = of(layer(weight, second)), of(layer(weight.T.contiguous(), second, along=True))
    assert along.rate_at(rows.loss_at(2.0)) == pytest.approx(2.0, abs=2e-3)


def test_correlated_inputs_lower_the_rate():
    mixing = gaussian(64, 64, seed=7)
    second = mixing @ mixing.T / 64
    weight = gaussian(64, 64)
    joint = of(layer(weight, second))
    diagonal = of(independent(second.diagonal().expand(64, 64).contiguous(), weight))
    loss = joint.loss_at(2.0)
    assert diagonal.rate_at(loss) > 2.2


@pytest.mark.parametrize(("lmbda", "rate"), [(0.003, 2.5), (2e-4, 4.5)])
def test_feedback_is_above_the_estimate_by_what_its_trellis_leaves(lmbda, rate):
    """Of Gaussian weights, at rates where all components are above the water level."""
    mixing = gaussian(200, 64, seed=7)
    second = mixing.T @ mixing / 200
    selection = layer(gaussian(1024, 64), second)
    quantized = Feedback(lmbda, sequential=False, damping=1e-9, output_damping=0.0).fit(selection)
    loss = joint_loss(quantized, selection, damping=1e-9, output_damping=0.0)
    spent = ideal_bits(quantized) / len(selection)
    assert abs(spent - rate) < 1
    assert 0.05 < spent - of(selection).rate_at(loss) < 0.2546


def test_the_joint_loss_is_what_feedback_reports():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4)).eval()
    data = [(gaussian(50, 20, seed=i), torch.arange(50) % 4) for i in range(4)]
    selection = nq.select(model, calibration=nq.calibrate(model, data, progress=False))
    feedback = Feedback(1e-5, sequential=False)
    assert joint_loss(feedback.fit(selection), selection) == pytest.approx(feedback.paths(selection).loss, rel=1e-4)


def test_nothing_to_quantize_takes_no_bits():
    found = of(independent(torch.ones(5), torch.zeros(5)))
    assert found.rate_at(1e-3) == 0
    for wrong in (0, -1.0, math.nan):
        with pytest.raises(ValueError, match="predicted_loss must be above 0"):
            found.rate_at(wrong)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="spectrum must be 'weights' or 'even', but got 'odd'"):
        waterfilling(independent(torch.ones(2), torch.ones(2)), spectrum="odd", progress=False)
    with pytest.raises(TypeError, match="selection"):
        waterfilling(torch.ones(2), progress=False)
