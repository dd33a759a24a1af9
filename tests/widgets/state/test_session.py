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


def test_what_is_of_a_pruned_model_is_not_taken_up_by_another():
    state = ExplorerState(network(), batches(), ratio=6.0, measure_at_rest=False)
    assert state.wait(WAIT)
    state.pin("dense")
    dense = state.session()
    assert "pruned" not in dense
    state.density = 0.4
    state.prune()
    assert state.wait(WAIT)
    state.pin("sparse")
    sparse = json.loads(json.dumps(state.session()))
    assert sparse["pruned"] == 0.4
    state.ratio = 7.0
    state.go_to(0)
    assert "pin dense is of an unpruned model" in state.error
    assert "undo the pruning first" in state.error
    state.restore(dense | {"pruned": None})
    assert "the session is of an unpruned model" in state.error
    assert state.ratio == 7.0
    state.restore(sparse)
    assert not state.error
    assert state.ratio == 6.0
    state.undo()
    state.undo()
    state.undo()
    assert state.wait(WAIT)
    assert state.pruned is None
    state.go_to(1)
    assert "prune to a density of 0.4 first" in state.error
    state.restore(sparse)
    assert "prune to a density of 0.4 first" in state.error
    for wrong in (0, 2.0, "0.4", True):
        state.restore(sparse | {"pruned": wrong})
        assert "pruned of a session must be a density" in state.error


def test_pruning_under_way_is_undone_by_cancelling_it_and_told_to_fine_tuning():
    state = ExplorerState(network(), batches(), ratio=6.0, measure_at_rest=False)
    assert state.wait(WAIT)
    state.ratio = 7.0
    assert state.wait(WAIT)
    with state._jobs.lock:  # so that no result is taken over
        state.prune()
        state.finetune()
        assert "the model is being pruned: fine-tune when that is done" in state.error
        state.undo()
    assert state.wait(WAIT)
    assert state.pruned is None
    assert state.finetuned is None
    assert state.ratio == 7.0


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([1], "must be a mapping, JSON or the path of a file, but is a list"),
        ("{", "a session must be JSON, but is not"),
        ("no-such-session.json", "there is no session file 'no-such-session.json'"),
    ],
)
def test_what_is_no_session_is_refused_with_advice(state, source, message):
    before = state.settings
    state.restore(source)
    assert message in state.error
    assert state.settings == before


def test_a_session_may_be_json_text(state):
    text = json.dumps(state.session() | {"pins": []})
    state.ratio = 9.0
    state.restore(text)
    assert not state.error
    assert state.ratio == 6.0


def test_a_layer_may_stand_alone(state):
    state.layers = "2"
    assert state.layers == ("2",)
    state.layers = "heed"
    assert "no layer or parameter has the name 'heed'" in state.error
