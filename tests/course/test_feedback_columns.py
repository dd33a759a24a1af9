"""Error feedback column by column: GPTQ's update by brute force, and the errors so far."""

import numpy as np
import pytest
import torch

from nbquant.course.feedback_columns import DAMPING, Columns, draw_feedback_columns, feedback_columns_data, show


@pytest.fixture(scope="module")
def columns():
    random = torch.Generator().manual_seed(0)
    x = torch.randn(200, 12, generator=random, dtype=torch.float64)
    x = x @ torch.randn(12, 12, generator=random, dtype=torch.float64)
    weight = torch.randn(6, 12, generator=random, dtype=torch.float64)
    return Columns(weight, x.T @ x / len(x), 0.5)


def test_each_step_is_the_best_answer(columns):
    """The weights behind the rounded columns are those of least output error, found by solving for them."""
    n = columns.weight.shape[1]
    damped = columns.moments + DAMPING * columns.moments.diagonal().mean() * torch.eye(n, dtype=torch.float64)
    for j in (1, 5, 11):
        rounded = columns.snapshots[j][:, :j]
        off = columns.weight[:, :j] - rounded
        answer = torch.linalg.solve(damped[j:, j:], damped[j:, :j] @ off.T).T
        assert torch.allclose(columns.snapshots[j][:, j:], columns.weight[:, j:] + answer)


def test_rounded_columns_stay(columns):
    last = columns.snapshots[-1]
    assert torch.allclose(last, (last / columns.step).round() * columns.step)
    for j in range(13):
        assert torch.equal(columns.snapshots[j][:, :j], last[:, :j])
    assert torch.equal(columns.snapshots[0], columns.weight)


def test_output_errors_are_those_of_the_outputs(columns):
    """Against the mean square of outputs of inputs with these moments."""
    x = torch.linalg.cholesky(columns.moments).T * len(columns.moments) ** 0.5
    energy = (x @ columns.weight.T).square().mean()
    off = (x @ (columns.nearest - columns.weight).T).square().mean()
    assert columns.output_errors[0, -1] == pytest.approx(float(off / energy))
    assert (columns.output_errors[:, 0] == 0).all()
    assert columns.output_errors[1, -1] < columns.output_errors[0, -1]


def test_data_is_of_the_column(columns):
    data = feedback_columns_data(columns, 4)
    assert (data.without[:, 4:] == 0).all()
    assert (np.abs(data.without) <= columns.step / 2 + 1e-12).all()
    assert np.abs(data.with_feedback[:, 4:]).max() > 0
    assert data.weight_errors[0] == pytest.approx(columns.weight_error(columns.weight + torch.from_numpy(data.without)))


def test_picture_follows_the_slider(columns):
    live = show(columns, 3)
    assert live.summary.startswith("After 3 of 12 columns")
    live.controls["column"].value = 12
    assert "After 12 of 12 columns" in live.box.children[1].value
    figure = draw_feedback_columns(feedback_columns_data(columns, 12))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert {"with error feedback", "each weight rounded by itself"} <= set(titles)
