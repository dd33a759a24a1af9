"""A Hadamard rotation is orthogonal, and spreads outliers."""

import pytest
import torch

from nbquant.course.rotation import COLUMNS, draw_rotation, hadamard, kurtosis, rotation_data, show

WEIGHT = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("n", [1, 2, 64])
def test_hadamard_matrix(n):
    matrix = hadamard(n)
    assert torch.allclose(matrix @ matrix.T, torch.eye(n, dtype=torch.float64))
    assert torch.equal(matrix, matrix.T)
    assert torch.allclose(matrix.abs(), torch.full((n, n), n**-0.5, dtype=torch.float64))


@pytest.mark.parametrize("n", [0, 3, 12])
def test_other_sizes_are_refused(n):
    with pytest.raises(ValueError, match=f"a power of two, but is {n}"):
        hadamard(n)


def test_kurtosis_by_hand():
    assert kurtosis(torch.tensor([-1.0, 1, -1, 1])) == pytest.approx(1)
    # Mean 1, variance 99: (99 · 1⁴ + 99⁴) / 100 over 99².
    assert kurtosis(torch.tensor([0.0] * 99 + [100])) == pytest.approx((99 + 99**4) / 100 / 99**2)


def test_normal_weights_gain_nothing():
    data = rotation_data(WEIGHT, 1)
    assert data.kurtoses == pytest.approx((3, 3), abs=0.3)
    assert data.errors[1] == pytest.approx(data.errors[0], rel=0.1)


def test_outliers_are_spread():
    data = rotation_data(WEIGHT, 8)
    assert data.kurtoses[0] > 20
    assert data.kurtoses[1] < 4
    assert data.errors[1] < data.errors[0] / 3
    assert data.largest[1] < data.largest[0] / 2


def test_error_is_that_of_the_weights_rotated_back():
    loud = WEIGHT.double().clone()
    loud[:, list(COLUMNS)] *= 4
    turned = loud @ hadamard(128)
    blocks = turned.reshape(-1, 64)
    scale = blocks.abs().amax(1, keepdim=True) / 7
    back = ((blocks / scale).round() * scale).reshape(loud.shape) @ hadamard(128).T
    error = float((back - loud).square().sum() / loud.square().sum())
    assert rotation_data(WEIGHT, 4).errors[1] == pytest.approx(error)


def test_picture_follows_the_slider():
    live = show(WEIGHT, 1)
    live.controls["factor"].value = 24
    assert "Four columns × 24" in live.box.children[1].value
    assert len(draw_rotation(rotation_data(WEIGHT, 2)).axes) == 3
