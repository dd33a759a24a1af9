"""Straight-through updates: against autograd, and the share of levels in the long run."""

import numpy as np
import pytest
import torch

from nbquant.course.straight_through import (
    RATES,
    SHOWN,
    START,
    TARGETS,
    UPDATES,
    draw_straight_through,
    show,
    straight_through_data,
)


@pytest.mark.parametrize("rate", RATES)
def test_updates_are_autograd_s_through_the_identity(rate):
    w = torch.tensor(START, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=rate)
    seen = [START]
    for _ in range(UPDATES):
        optimizer.zero_grad()
        (0.5 * (w + (w.round() - w).detach() - 0.3) ** 2).backward()
        optimizer.step()
        seen.append(float(w.detach()))
    assert np.allclose(straight_through_data(0.3, rate).latent, seen)


def test_by_hand():
    """From 0.4 with rate 0.5: 0 is too low by 0.3, then 1 is too high by 0.7."""
    assert straight_through_data(0.3, 0.5, 0.4).latent[:3] == pytest.approx([0.4, 0.55, 0.2])


@pytest.mark.parametrize("target", [0.2, 0.5, 0.8])
def test_mean_of_the_rounded_weight_is_the_best_value(target):
    """The latent weight stays bounded, so the moves cancel."""
    data = straight_through_data(target, 0.2)
    assert data.rounded[:-1].mean() == pytest.approx(target, abs=1.5 / (0.2 * UPDATES))
    assert data.share == pytest.approx(target, abs=0.1)


def test_weight_rests_where_a_level_is_best():
    assert (straight_through_data(0.0, 0.1).latent == START).all()
    assert straight_through_data(1.0, 0.1).rounded[-20:].tolist() == [1] * 20


def test_picture_follows_the_sliders():
    live = show()
    assert live.summary.startswith("The best value is 0.30 steps")
    live.controls["target"].value = 0.7
    live.controls["rate"].value = 1.0
    assert "The best value is 0.70 steps, learning rate 1:" in live.box.children[1].value
    left, right = draw_straight_through(straight_through_data(0.7, 1.0)).axes
    assert left.lines[0].get_ydata().tolist() == straight_through_data(0.7, 1.0).latent.tolist()
    assert "STE" in right.lines[1].get_label()


@pytest.mark.parametrize("rate", RATES)
def test_picture_shows_all_weights(rate):
    latent = np.concatenate([straight_through_data(target / 100, rate).latent for target in TARGETS])
    assert SHOWN[0] < latent.min() <= latent.max() < SHOWN[1]
