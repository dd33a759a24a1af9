"""Every control in any order gives what the same inputs give from scratch."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from torch import nn

from nbquant.analysis.by_hand import with_centre_at
from nbquant.analysis.target import targets_of
from nbquant.widgets.jobs import exact as exact_module
from nbquant.widgets.settings import DRIVERS, Settings
from nbquant.widgets.state import ExplorerState
from tests.widgets.samples import sensitivities

WAIT = 60
LAYERS = (("0",), ("2",), ("0", "2"), ())
VALUES = {
    "ratio": (1.0, 3.0, 4.5, 6.0, 9.0, 500.0, -1.0, float("nan")),
    "rate": (1.9, 3.0, 5.5, 7.0, 0.01, float("inf")),
    "levels": (1, 2, 5, 8, 30, 0),
    "lmbda": (1e-4, 1e-3, 0.02, 0.0),
    "step": (0.05, 0.2, 0.7, -0.1),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


def opened(**inputs):
    model = network()
    return ExplorerState(model, sensitivity=sensitivities(model), **inputs)


_known = {}


def from_scratch(wanted: Settings):
    """A state that never had other settings; None where it cannot be made."""
    key = replace(wanted, layers=tuple(sorted(wanted.layers)))
    if key not in _known:
        values = wanted.to_json()
        asked = {values.pop("driver"): values.pop("value")}
        try:
            state = opened(**values, **asked)
        except ValueError as error:
            _known[key] = str(error)
        else:
            assert state.wait(WAIT)
            _known[key] = state
    return _known[key]


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Model:
    """Undo and redo as a list and a place in it."""

    def __init__(self, first):
        self.steps, self.place, self.last = [first], 0, None

    def changed(self, settings, step, soon):
        if settings == self.steps[self.place]:
            return
        same = soon and step is not None and step == self.last
        if not same:
            self.place += 1
        self.steps[self.place :] = [settings]
        self.last = step

    def move(self, by):
        if 0 <= self.place + by < len(self.steps):
            self.place += by
        self.last = None
        return self.steps[self.place]


class Pressing(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.state = opened(ratio=4.0)
        assert self.state.wait(WAIT)
        self.clock = Clock()
        self.state._history._clock = self.clock
        self.model = Model(self.state.settings)
        self.pinned: list[Settings] = []
        self.moves: list[tuple[str, int, float]] | None = []  # None: not known
        self.refused = False
        self.presses = 0

    def _took(self, step, soon=False):
        """Note a change that may have been refused."""
        self.refused = bool(self.state._jobs._errors.get("inputs"))
        self.moves = []
        self.model.changed(self.state.settings, step, soon)

    def _press(self, name, value, soon=False):
        self.clock.now += 0.5 if soon else 5.0
        before = self.state.settings
        setattr(self.state, name, value)
        if getattr(before, name, None) != value or name in DRIVERS:
            self._took(name, soon)
        if name not in DRIVERS:
            changes = {name: value}
            if name == "method" and before.driver not in targets_of(value):
                changes |= {"driver": "ratio", "value": self.state.settings.value}
            assert self.state.settings == replace(before, **changes)

    @rule(layers=st.sampled_from(LAYERS))
    def select(self, layers):
        self._press("layers", layers)

    @rule(method=st.sampled_from(("kmeans", "uniform", "ecsq")))
    def choose_method(self, method):
        self._press("method", method)

    @rule(name=st.sampled_from(("weighted", "per_layer")))
    def switch(self, name):
        self._press(name, not getattr(self.state, name))

    @rule()
    def switch_pinned_zero(self):
        self._press("pinned_zero", not self.state.pinned_zero)

    @rule(coding=st.sampled_from(("huffman", "fixed")))
    def code(self, coding):
        self._press("coding", coding)

    @rule(damping=st.sampled_from((0.0, 0.1, 1.0)), soon=st.booleans())
    def damp(self, damping, soon):
        self._press("damping", damping, soon)

    @rule(data=st.data(), soon=st.booleans())
    def drive(self, data, soon):
        name = data.draw(st.sampled_from(DRIVERS))
        value = data.draw(st.sampled_from(VALUES[name]))
        self.clock.now += 0.5 if soon else 5.0
        before = self.state.settings
        self.state.drive(name, value)
        self._took(name, soon)
        good = name in targets_of(before.method) and 0 < value < np.inf
        assert self.refused == (not good)
        assert self.state.settings == (replace(before, driver=name, value=value) if good else before)

    @rule(data=st.data())
    def set_target(self, data):
        name = data.draw(st.sampled_from(DRIVERS))
        value = data.draw(st.sampled_from(VALUES[name]))
        was = getattr(self.state, name)
        self._press(name, value)
        good = name in targets_of(self.state.method) and 0 < value < np.inf
        if good and value != was:
            assert (self.state.driver, self.state.settings.value) == (name, value)

    @rule(data=st.data(), method=st.sampled_from(("kmeans", "uniform", "ecsq")), weighted=st.booleans())
    def choose_point(self, data, method, weighted):
        name = data.draw(st.sampled_from(DRIVERS))
        value = data.draw(st.sampled_from(VALUES[name]))
        self.clock.now += 5.0
        before = self.state.settings
        self.state.choose_point(method, weighted, name, value)
        self._took(None)
        good = name in targets_of(method) and 0 < value < np.inf
        assert self.refused == (not good)
        if not good:
            assert self.state.settings == before

    @rule()
    def undo(self):
        self.clock.now += 5.0
        self.moves = [] if self.state.can_undo else self.moves
        self.state.undo()
        assert self.state.settings == self.model.move(-1)

    @rule()
    def redo(self):
        self.clock.now += 5.0
        self.moves = [] if self.state.can_redo else self.moves
        self.state.redo()
        assert self.state.settings == self.model.move(1)

    @rule()
    def pin(self):
        count = len(self.state.pins)
        self.state.pin()
        if self.state.point is None:
            assert len(self.state.pins) == count
            return
        pin = self.state.pins[-1]
        assert pin.inputs == self.state._exact.request.settings
        assert pin.label not in {p.label for p in self.state.pins[:-1]}

    @precondition(lambda self: self.state.pins)
    @rule(data=st.data())
    def go_to(self, data):
        index = data.draw(st.integers(0, len(self.state.pins) - 1))
        self.clock.now += 5.0
        self.state.go_to(index)
        self._took(None)
        assert self.state.settings == self.state.pins[index].inputs

    @precondition(lambda self: self.state.pins)
    @rule(data=st.data())
    def unpin(self, data):
        index = data.draw(st.integers(0, len(self.state.pins) - 1))
        rest = [p.label for i, p in enumerate(self.state.pins) if i != index]
        self.state.unpin(index)
        assert [p.label for p in self.state.pins] == rest

    @rule(focus=st.sampled_from(("0.weight", "0.bias", "2.weight", "2.bias")))
    def look_at(self, focus):
        if focus in self.state.parameters:
            if focus != self.state.focus:
                self.moves = []
            self.state.focus = focus

    @rule(index=st.integers(0, 3), value=st.sampled_from((-0.3, 0.0, 0.2, float("nan"))))
    def move_centre(self, index, value):
        assert self.state.wait(WAIT)
        request, group = self.state._exact.request, self.state.group
        if request is None:
            return
        before = self.state.by_hand or request.point
        self.state.move_centre(index, value)
        if index < len(before.clusters[group].codebook) and np.isfinite(value):
            self.moves.append((group, index, value))
        else:
            assert self.state._jobs._errors["inputs"]
            self.refused = True

    @rule()
    def release(self):
        self.state.release()
        self.moves = []

    @rule(fresh=st.booleans())
    def round_trip(self, fresh):
        text = json.dumps(self.state.session(), allow_nan=False)
        if not self.state.settings.layers:
            return
        pins, wanted = self.state.pins, self.state.settings
        if fresh:
            self.state = opened(ratio=2.0)
            self.state._history._clock = self.clock
            self.model = Model(self.state.settings)
        self.clock.now += 5.0
        self.state.restore(json.loads(text))
        self._took(None)
        assert not self.refused, self.state.error
        assert self.state.settings == wanted
        assert self.state.pins == pins

    @rule()
    def cancel(self):
        self.state.cancel()

    @rule()
    def wait(self):
        assert self.state.wait(WAIT)

    @invariant()
    def compare_now_and_then(self):
        self.presses += 1
        if self.presses % 3 == 0:
            self.compare()

    def compare(self):
        state = self.state
        assert state.wait(WAIT)
        expected = from_scratch(state.settings)
        if isinstance(expected, str):
            assert state._jobs._errors["layers"] == expected
            return
        if not self.refused and not state._cancelled and self.moves is not None:
            self._compare_by_hand()
        # What was cancelled is made up for with the next input; what was refused is forgotten.
        state.drive(state.driver, state.settings.value)
        self.moves, self.refused = [], False
        assert state.wait(WAIT)
        assert state.error == expected.error
        assert state.parameters == expected.parameters
        assert state.ratio_bounds == pytest.approx(expected.ratio_bounds)
        assert state.curves.keys() == expected.curves.keys()
        if expected.point is None:
            return
        for name in DRIVERS:
            assert getattr(state, name) == pytest.approx(getattr(expected, name), rel=1e-6)
        _same_point(state.point, expected.point)
        assert state.exact.ledger == expected.exact.ledger
        assert state.ledger == expected.ledger
        for name, weight in expected.exact.dequantize().items():
            torch.testing.assert_close(state.exact.dequantize()[name], weight)
        for column in ("bits", "predicted_loss", "mean_sensitivity"):
            np.testing.assert_allclose(
                state.breakdown.layers[column], expected.breakdown.layers[column], rtol=1e-5, atol=1e-12
            )
        self._compare_table(expected)
        for pin in state.pins:
            if pin.inputs == state._exact.request.settings:
                assert pin.exact
                assert pin.bits == state.ledger.total
                assert pin.predicted_loss == pytest.approx(state.exact.predicted_loss_increase)

    def _compare_by_hand(self):
        request = self.state._exact.request
        if not self.moves or request is None:
            assert self.state.by_hand is None
            return
        point = request.point
        for move in self.moves:
            point = with_centre_at(point, request.statistics, *move)
        _same_point(self.state.by_hand, point)

    def _compare_table(self, expected):
        expected.focus = self.state.focus
        found, wanted = self.state.table, expected.table
        assert (found.method, found.weighted, found.coding) == (wanted.method, wanted.weighted, wanted.coding)
        for name in ("ratio", "rate", "loss", "value", "levels", "start", "centre", "count", "length"):
            np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-5, atol=1e-9)
        assert found.mean_h == pytest.approx(wanted.mean_h)
        assert found.ledger.keys() == wanted.ledger.keys()
        np.testing.assert_array_equal(found.ledger["unquantized"], wanted.ledger["unquantized"])

    def teardown(self):
        self.compare()


def _same_point(found, wanted):
    assert type(found.quantizer) is type(wanted.quantizer)
    assert found.parameter == pytest.approx(wanted.parameter, rel=1e-6)
    assert found.ledger == wanted.ledger
    assert found.predicted_loss_increase == pytest.approx(wanted.predicted_loss_increase, rel=1e-5, abs=1e-12)


def test_every_control_in_any_order_gives_what_its_inputs_give_from_scratch(monkeypatch):
    monkeypatch.setattr(exact_module, "SETTLED", 0.002)
    run_state_machine_as_test(
        Pressing,
        settings=settings(
            max_examples=30 if os.environ.get("NBQUANT_FUZZ") else 12,  # make fuzz tries more
            stateful_step_count=30,
            derandomize=True,
            phases=(Phase.generate,),  # shortening a failure takes minutes
            database=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
    _known.clear()
