"""Scaling of channels: the outputs' error by brute force, over the exponent."""

import pytest
import torch

from nbquant.course.channel_scaling import EXPONENTS, channel_scaling_data, draw_channel_scaling, rounded, show


@pytest.fixture(scope="module")
def layer():
    random = torch.Generator().manual_seed(0)
    x = torch.randn(300, 64, generator=random, dtype=torch.float64) * torch.linspace(0.5, 2, 64, dtype=torch.float64)
    return torch.randn(8, 64, generator=random, dtype=torch.float64), x


def test_rounding_by_hand():
    weight = torch.tensor([[3.0, 1.4, -0.4, -3.0]])
    assert rounded(weight, 3, 4).tolist() == [[3, 1, 0, -3]]
    assert rounded(weight, 3, 2)[0].tolist() == pytest.approx([3, 1, 0, -3])


@pytest.mark.parametrize("louder", [1, 8])
def test_error_is_that_of_the_outputs(layer, louder):
    weight, x = layer
    data = channel_scaling_data(weight, x, 0.5, louder)
    loud = x.clone()
    loud[:, x.abs().mean(0).topk(8).indices] *= louder
    s = loud.abs().mean(0) ** 0.5
    changed = rounded(weight * s) / s  # a common factor of s does not matter
    error = (loud @ (changed - weight).T).square().mean() / (loud @ weight.T).square().mean()
    assert data.errors[EXPONENTS.index(0.5)] == pytest.approx(float(error))


def test_exponent_0_changes_nothing(layer):
    data = channel_scaling_data(*layer, 0.0)
    assert (data.before == data.after).all()
    assert (data.magnitude[1:] >= data.magnitude[:-1]).all()


def test_louder_channels_gain_more(layer):
    gains = [d.errors[0] / d.errors.min() for d in (channel_scaling_data(*layer, 0.0, k) for k in (1, 4, 16))]
    assert 1 <= gains[0] < gains[1] < gains[2]


def test_picture_follows_the_sliders(layer):
    live = show(*layer)
    live.controls["louder"].value = 16
    live.controls["exponent"].value = 0.25
    assert "to the power of 0.25" in live.box.children[1].value
    left, right = draw_channel_scaling(channel_scaling_data(*layer, 0.25)).axes
    assert left.get_xscale() == "log"
    assert len(right.lines) == 3
