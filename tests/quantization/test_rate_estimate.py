"""Rates estimated from a sample of columns, held to runs on all weights."""

import pytest
import torch
from torch import nn

import nbquant as nq
from nbquant.quantization import paths, rate_estimate
from nbquant.quantization.feedback import FEEDBACK_METHOD, Feedback
from nbquant.quantization.selection import Selection
from nbquant.quantization.tensor import SelectedTensor
from nbquant.quantization.trellis import Trellis, estimate_rate


def selection(keep=1.0):
    g = torch.Generator().manual_seed(0)
    tensors = []
    for i, (shape, power) in enumerate([((300, 900), 1.0), ((300,), 0.5), ((64, 3, 3, 3), 0.2)]):
        w = power * torch.randn(shape, generator=g)
        w = w * (torch.rand(shape, generator=g) < keep)
        tensors.append(SelectedTensor(f"l{i}.weight", f"l{i}", w, torch.rand(shape, generator=g) ** 2))
    return Selection(tuple(tensors))


@pytest.mark.parametrize("keep", [1.0, 0.2])
@pytest.mark.parametrize("per_layer", [True, False])
def test_estimates_are_near_what_a_run_gives_in_any_order(keep, per_layer):
    found = selection(keep)
    steps = "equal slope" if per_layer else "joint"
    estimate = estimate_rate(Trellis(1e-3, per_layer=per_layer, steps=steps), found)
    for lmbda in (1e-3, 0.1, 0.01, 3e-4):
        expected = Trellis(lmbda, per_layer=per_layer, steps=steps).paths(found).bits / len(found)
        assert estimate(lmbda) == pytest.approx(expected, rel=0.04)


def test_a_fixed_step_stays():
    found = selection()
    estimate = estimate_rate(Trellis(1e-3, step=0.3), found)
    for lmbda in (1e-3, 1e-2):
        assert estimate(lmbda) == pytest.approx(Trellis(lmbda, step=0.3).paths(found).bits / len(found), rel=0.04)


def test_later_estimates_take_a_small_part_of_a_run(monkeypatch):
    found = selection()
    estimate, passed, real = estimate_rate(Trellis(1e-3), found), [], paths.dispatch.viterbi_in_strips

    def counted(target, *rest):
        passed.append(target.numel())
        return real(target, *rest)

    estimate(1e-3)
    monkeypatch.setattr(paths.dispatch, "viterbi_in_strips", counted)
    estimate(2e-3)
    assert sum(passed) <= rate_estimate.TURNS * 0.3 * len(found)


@pytest.mark.parametrize("h", [True, False])
def test_feedback_is_estimated_by_the_trellis_of_its_layers(h):
    """Near enough to lead a search; one tensor has no moments, one layer is along its inputs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.ConvTranspose2d(16, 8, 3), nn.ReLU(), nn.Flatten())
    model = model.append(nn.BatchNorm1d(512)).append(nn.Linear(512, 20)).eval()
    data = [(torch.randn(40, 1, 8, 8), torch.arange(40) % 20) for _ in range(4)]
    calibration = nq.calibrate(model, data, progress=False)
    of = nq.sensitivity(model, data, damping=0.1, progress=False) if h else None
    found = nq.select(model, of, calibration=calibration)
    estimate = FEEDBACK_METHOD.estimate_rate(Feedback(1e-9), found)
    rates = [estimate(lmbda) for lmbda in (1e-9, 1e-8, 1e-7)]
    assert rates[0] > rates[1] > rates[2]
    for lmbda, rate in zip((1e-9, 1e-8), rates, strict=False):
        assert 0.6 < rate / (Feedback(lmbda).paths(found).bits / len(found)) < 1.6
