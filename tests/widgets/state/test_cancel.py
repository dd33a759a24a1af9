"""What was cancelled is told and gone on with; what is of earlier settings is known to be."""

import threading

import pytest

from nbquant.widgets.jobs import curves
from nbquant.widgets.state import ExplorerState
from nbquant.widgets.view.explorer import Explorer
from tests.widgets.samples import batches, sensitivities, two_layers

WAIT = 60


@pytest.fixture
def state():
    model = two_layers()
    state = ExplorerState(model, batches(), sensitivity=sensitivities(model), ratio=6.0, measure_at_rest=False)
    assert state.wait(WAIT)
    return state


@pytest.fixture
def held(monkeypatch):
    """Curves wait for this event."""
    event, before = threading.Event(), curves.curve

    def slow(*arguments):
        event.wait(WAIT)
        return before(*arguments)

    monkeypatch.setattr(curves, "curve", slow)
    yield event
    event.set()


def test_cancelled_curves_are_told_and_gone_on_with(state, held):
    before = state.point
    state.damping = 0.5
    state.cancel()
    held.set()
    assert state.wait(WAIT)
    assert state.cancelled
    assert state.point is before
    assert state.is_stale
    state.resume()
    assert not state.cancelled
    assert state.wait(WAIT)
    assert state.point is not before
    assert not state.is_stale


def test_nothing_is_cancelled_at_rest(state):
    state.cancel()
    assert not state.cancelled


def test_another_setting_goes_on_as_well(state, held):
    state.damping = 0.5
    state.cancel()
    held.set()
    assert state.wait(WAIT)
    state.coding = "fixed"
    assert not state.cancelled
    assert state.wait(WAIT)
    assert not state.is_stale


def test_cancelled_estimate_is_made_again():
    state = ExplorerState(two_layers(), batches(), ratio=6.0, measure_at_rest=False)
    state.cancel()
    state.wait(WAIT)
    state.resume()
    assert state.wait(WAIT)
    assert state.sensitivity is not None
    assert not state.is_stale


@pytest.mark.parametrize(
    ("name", "value"), [("method", "ecsq"), ("coding", "fixed"), ("layers", ("0",)), ("damping", 0.7)]
)
def test_numbers_of_earlier_settings_are_stale_until_the_new_ones_are_there(state, held, name, value):
    explorer = Explorer(state)
    assert not explorer.stale
    if name == "method":
        state._curves_of.statistics.curves.clear()
        state.damping = 0.6  # else its curve is there at once
    setattr(state, name, value)
    assert explorer.stale
    held.set()
    assert state.wait(WAIT)
    assert not explorer.stale


def test_option_that_the_method_lacks_makes_nothing_stale(state):
    state.method = "uniform"
    assert state.wait(WAIT)
    state.pinned_zero = True
    assert state.wait(WAIT)
    assert not state.is_stale
