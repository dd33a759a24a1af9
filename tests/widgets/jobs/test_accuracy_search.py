"""A target of accuracy lost: searched in the background, told how sure, undone, cancelled, restored."""

import pytest
import torch
from torch import nn

import nbquant as nq
from nbquant.widgets.jobs import accuracy_search
from nbquant.widgets.settings import ACCURACY_LOSS
from nbquant.widgets.state import ExplorerState
from nbquant.widgets.view.readout import facts
from tests.widgets.samples import WAIT, sensitivities


@pytest.fixture(scope="module")
def trained():
    """A network that classifies 600 points in two batches well."""
    torch.manual_seed(0)
    x = torch.randn(600, 8)
    y = (x[:, 0] + x[:, 1] > 0).long()
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(120):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, [(x[:300], y[:300]), (x[300:], y[300:])]


@pytest.fixture
def state(trained):
    model, batches = trained
    state = ExplorerState(
        model, batches, sensitivity=sensitivities(model), ratio=4.0, method="kmeans", measure_at_rest=False
    )
    assert state.wait(WAIT)
    return state


def test_ratio_is_that_of_the_public_fit(state, trained):
    model, batches = trained
    state.accuracy_loss = 2.0
    assert state.driver == ACCURACY_LOSS
    assert state.wait(WAIT)
    assert state.error == ""
    selection = state.selection.damped(state.statistics.offset)
    expected = nq.fit(selection, "kmeans", accuracy_loss=2.0, evaluate=(model, batches), progress=False)
    assert state.exact.compression_ratio == expected.compression_ratio
    assert state.found == expected.accuracy
    assert not state.is_stale
    assert state.ratio == pytest.approx(expected.compression_ratio, rel=0.05)  # by histograms
    (said,) = [fact for fact in facts(state) if fact["label"] == "accuracy lost"]
    assert said["value"].startswith(f"{expected.accuracy.lost:.2f} ± ".replace("-", "−"))
    assert "sure, 600 labels" in said["note"]
    assert "at most 2:" in said["note"]


def test_it_is_a_step_that_is_undone_and_another_target_ends_it(state):
    before = state.exact.compression_ratio
    state.drive(ACCURACY_LOSS, 1.0)
    assert state.is_stale
    assert state.wait(WAIT)
    found = state.found
    state.undo()
    assert state.wait(WAIT)
    assert (state.driver, state.found) == ("ratio", None)
    assert state.exact.compression_ratio == before
    state.redo()
    assert state.found is found  # is not searched again
    assert state.wait(WAIT)
    state.accuracy_loss = 1.5
    state.drive("levels", 5)
    assert state.wait(WAIT)
    assert (state.driver, state.levels, state.found) == ("levels", 5, None)


def test_cancelled_search_keeps_the_point_and_goes_on(state):
    before = state.exact
    state.accuracy_loss = 1.0
    state.cancel()
    assert state.wait(WAIT)
    assert state.cancelled
    assert (state.found, state.is_stale) == (None, False)
    assert state.exact is before
    state.resume()
    assert state.wait(WAIT)
    assert state.found.at_most == 1.0


def test_other_curves_are_searched_again(state):
    state.accuracy_loss = 2.0
    assert state.wait(WAIT)
    first = state.found
    state.coding = "fixed"
    assert state.wait(WAIT)
    assert state.driver == ACCURACY_LOSS
    assert state.found is not first
    assert state.found.lost <= 2.0
    state.method = "trellis"
    assert state.driver == ACCURACY_LOSS


def test_what_cannot_be_met_is_told(state, monkeypatch):
    def unmet(*_):
        raise ValueError("accuracy_loss 1 cannot be met: allow more")

    monkeypatch.setattr(accuracy_search, "fit_accuracy", unmet)
    state.accuracy_loss = 1.0
    assert state.wait(WAIT)
    assert state.error == "accuracy_loss 1 cannot be met: allow more"
    assert (state.found, state.is_stale) == (None, False)
    state.ratio = 5.0
    assert state.error == ""


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_value_that_is_none_is_refused(state, value):
    state.drive(ACCURACY_LOSS, value)
    assert "accuracy_loss must be" in state.error
    assert state.driver == "ratio"


def test_without_data_it_is_refused_with_what_to_do(trained):
    model, _ = trained
    state = ExplorerState(model, sensitivity=sensitivities(model))
    assert state.wait(WAIT)
    state.accuracy_loss = 1.0
    assert state.driver == "ratio"
    assert state.error == (
        "accuracy_loss requires data to measure on, but there are no data; give them with explore(model, data)"
    )
    with pytest.raises(ValueError, match="requires data to measure on"):
        ExplorerState(model, accuracy_loss=1.0)


def test_session_and_code_have_it(state, trained):
    model, batches = trained
    state.accuracy_loss = 2.0
    assert state.wait(WAIT)
    again = ExplorerState(model, batches, sensitivity=sensitivities(model), measure_at_rest=False)
    again.restore(state.session())
    assert again.wait(WAIT)
    assert (again.driver, again.accuracy_loss, again.found) == (ACCURACY_LOSS, 2.0, state.found)
    assert "accuracy_loss=2.0, evaluate=(model, data)" in state.code()
    names = {"model": model, "data": batches, "sensitivity": sensitivities(model)}
    exec(state.code(), names)
    assert names["quantized"].compression_ratio == state.exact.compression_ratio
