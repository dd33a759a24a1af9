import numpy as np
import plotly.graph_objects as go
import pytest

from nbquant.pipeline.finetune import Epoch
from nbquant.views.finetuning import draw_finetuning, finetuning_data, finetuning_table

HISTORY = [Epoch(0, None, 0.5, 0.90), Epoch(1, 0.45, 0.4, 0.92), Epoch(2, 0.35, 0.42, 0.91)]
STEPS = [0.5, 0.4, 0.4, 0.3]


def trace(figure, name):
    return next(t for t in figure.data if name in t.name)


def test_line_has_a_point_a_step_and_dots_stand_at_the_ends_of_epochs():
    data = finetuning_data(STEPS, HISTORY, 2, validation="test", label="16 levels")
    np.testing.assert_array_equal(data.step, [1, 2, 3, 4])
    np.testing.assert_array_equal(data.train_loss, STEPS)
    np.testing.assert_array_equal(data.epoch_step, [0, 2, 4])
    np.testing.assert_array_equal(data.validation_loss, [0.5, 0.4, 0.42])
    figure = go.Figure(draw_finetuning(data))
    assert figure.layout.title.text.startswith("<b>Fine-tuning – 16 levels</b>")
    assert "test loss 0.5000 → 0.4200, accuracy 90.00 → 91.00 %" in figure.layout.title.text
    assert list(trace(figure, "training").y) == STEPS
    assert list(trace(figure, "test").x) == [0, 2, 4]
    assert "step" in figure.layout.xaxis.title.text
    assert "loss" in figure.layout.yaxis.title.text


def test_kept_epoch_stands_out_and_is_what_the_title_tells():
    figure = go.Figure(draw_finetuning(finetuning_data(STEPS, HISTORY, 1)))
    assert list(trace(figure, "validation").marker.size) == [8, 11, 8]
    assert "0.5000 → 0.4000" in figure.layout.title.text


@pytest.mark.parametrize("steps", [1, 799, 800, 801, 12_345])
def test_many_steps_are_means_of_several(steps):
    loss = np.random.default_rng(0).random(steps)
    data = finetuning_data(list(loss), HISTORY[:2], 1)
    assert len(data.step) <= 800
    ends = np.minimum(np.arange(1, len(data.step) + 1) * data.steps_per_point, steps)
    counts = np.diff(ends, prepend=0)
    assert counts @ data.train_loss == pytest.approx(loss.sum())
    assert data.step[0] == (1 + counts[0]) / 2
    assert data.step[-1] <= steps
    assert ("mean of" in go.Figure(draw_finetuning(data)).data[0].name) == (steps > 800)


def test_without_validation_there_are_no_dots():
    figure = go.Figure(draw_finetuning(finetuning_data(STEPS, [Epoch(0), Epoch(1, 0.4)], 1)))
    assert len(figure.data) == 1
    assert "training loss 0.5000 → 0.3000" in figure.layout.title.text


def test_network_that_does_not_classify_has_no_accuracy():
    figure = go.Figure(draw_finetuning(finetuning_data(STEPS, [Epoch(0, None, 0.5), Epoch(1, 0.4, 0.3)], 1)))
    assert "accuracy" not in figure.layout.title.text
    assert list(trace(figure, "validation").customdata) == ["", ""]


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="0 steps and 3 records"):
        finetuning_data([], HISTORY, 1)
    with pytest.raises(ValueError, match="4 steps and 1 records"):
        finetuning_data(STEPS, HISTORY[:1], 0)


def test_table_has_both_series():
    table = finetuning_table(finetuning_data(STEPS, HISTORY, 2, validation="test"))
    assert table["batches"].tolist() == ["test"] * 3 + ["training"] * 4
    assert table["step"].tolist() == [0, 2, 4, 1, 2, 3, 4]
    assert table["loss [loss/sample]"].tolist() == [0.5, 0.4, 0.42, *STEPS]
    assert table["kept"].tolist() == [False, False, True] + [False] * 4
    assert table["accuracy"].tolist()[:3] == [0.9, 0.92, 0.91]
