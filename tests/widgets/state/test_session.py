"""Pins and sessions."""

import json

import pytest
import torch

from nbquant.widgets.state import ExplorerState
from nbquant.widgets.state.session import MOST_BYTES
from tests.widgets.samples import WAIT, batches, network, sensitivities


def test_pin_has_the_numbers_and_gets_better_ones_as_they_come(state):
    state.measure_at_rest = False
    state.ratio = 8.0
    state.pin("mine")
    (pin,) = state.pins
    assert not pin.exact
    assert (pin.label, pin.levels, pin.accuracy) == ("mine", state.point.levels, None)
    assert state.wait(WAIT)
    (pin,) = state.pins
    assert pin.exact
    assert pin.ratio == state.exact.compression_ratio
    assert pin.bits == state.ledger.total
    assert pin.codebooks == {"all": tuple(state.exact.codebook.tolist())}
    state.measure()
    state.ratio = 9.0  # gone by the time it is measured
    assert state.wait(WAIT)
    (pin,) = state.pins
    assert pin.accuracy == state.measured[-1].evaluation.accuracy
    assert pin.loss == state.measured[-1].evaluation.loss


def test_going_to_a_pin_takes_up_all_of_it_in_one_step(state):
    state.pin()
    state.layers, state.method, state.per_layer = ("2",), "ecsq", True
    state.lmbda = 1e-3
    assert state.wait(WAIT)
    state.pin()
    assert [p.label for p in state.pins] == ["A", "B"]
    state.go_to(0)
    assert state.wait(WAIT)
    assert state.settings == state.pins[0].inputs
    assert (state.layers, state.method, state.driver, state.ratio) == (("0", "2", "4"), "kmeans", "ratio", 6.0)
    assert state.exact.compression_ratio == state.pins[0].ratio
    state.undo()
    assert (state.layers, state.method, state.driver, state.lmbda) == (("2",), "ecsq", "lmbda", 1e-3)
    assert state.wait(WAIT)
    assert state.exact.rate == pytest.approx(state.pins[1].rate)
    state.unpin(0)
    assert [p.label for p in state.pins] == ["B"]
    state.go_to(3)
    assert "must be from 0 to 0" in state.error


def test_fine_tuned_pin_keeps_what_was_predicted(state):
    state.finetune()
    assert state.wait(WAIT)
    state.measure()
    assert state.wait(WAIT)
    state.pin()
    (pin,) = state.pins
    assert pin.finetuned
    assert pin.predicted_loss == state.exact.predicted_loss_increase
    assert pin.codebooks["all"] == tuple(state.kept.codebook.tolist())
    assert pin.accuracy == state.measurement.evaluation.accuracy
    json.dumps(state.session(), allow_nan=False)


def test_session_goes_through_a_file(state, tmp_path):
    state.layers, state.method, state.samples = ("0", "4"), "uniform", 20
    state.rate = 5.0
    state.size, state.pooling, state.log_count, state.epochs = "compact", "mean", True, 3
    assert state.wait(WAIT)
    state.focus = "4.weight"
    state.pin("p")
    state.save_session(tmp_path / "s.json")
    assert state.error == ""
    model = network()
    other = ExplorerState(model, batches(), sensitivity=sensitivities(model), ratio=9.0)
    other.restore(tmp_path / "s.json")
    assert other.pins == state.pins  # before anything is computed
    assert other.wait(WAIT)
    assert other.error == ""
    assert other.session() == state.session()
    assert other.exact.ledger == state.exact.ledger
    other.undo()
    assert other.ratio == 9.0
    assert [p.name for p in tmp_path.iterdir()] == ["s.json"]


def broken(session, path, value):
    place = session
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format",), 2, "newest"),
        (("format",), "1", "whole number"),
        (("inputs", "layers"), ["7"], "'7'"),
        (("inputs", "layers"), [], "at least one"),
        (("inputs", "damping"), float("nan"), "finite"),
        (("inputs", "value"), float("inf"), "finite"),
        (("inputs", "method"), 3, "method"),
        (("inputs", "epochs"), 0, "epochs"),
        (("inputs", "density"), float("nan"), "density"),
        (("inputs", "colour"), "red", "'colour'"),
        (("view", "size"), "huge", "size"),
        (("view", "focus"), "7.weight", "focus"),
        (("view", "zoom"), 2, "'zoom'"),
        (("more",), 2, "'more'"),
        (("pins",), {}, "list"),
        (("pins", 0, "accuracy"), float("nan"), "accuracy"),
        (("pins", 0, "bits"), 1.5, "bits"),
        (("pins", 0, "rate"), 10**400, "rate"),
        (("pins", 0, "codebooks"), {"all": ["1"]}, "codebooks"),
        (("pins", 0, "inputs"), {}, "inputs"),
        (("inputs",), [], "object"),
    ],
)
def test_session_that_does_not_fit_is_refused_and_changes_nothing(state, path, value, message):
    state.pin()
    session = json.loads(json.dumps(state.session()))
    session["inputs"]["ratio"] = None
    del session["inputs"]["ratio"]
    session["inputs"]["epochs"] = 5
    broken(session, path, value)
    before, point = state.session(), state.point
    state.restore(session)
    assert message in state.error
    assert state.session() == before
    assert state.point is point
    assert not state.can_undo
    state.ratio = 7.0
    assert state.error == ""


def test_files_that_hold_no_session_are_refused(state, tmp_path):
    file = tmp_path / "s.json"
    for content, message in ((b"{" * 9, "JSON"), (b"[]", "object"), (b" " * (MOST_BYTES + 1), "at most")):
        file.write_bytes(content)
        state.restore(file)
        assert message in state.error
    state.restore(tmp_path / "none.json")
    assert "none.json" in state.error
    state.save_session(tmp_path / "none" / "s.json")
    assert "none" in state.error
    assert torch.is_tensor(state.exact.codebook)
