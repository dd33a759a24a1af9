"""Prune from the state: all that follows is of the pruned module."""

import math

import pytest
import torch
from traitlets import TraitError

import nbquant as nq
from nbquant.widgets.state import ExplorerState
from nbquant.widgets.view.explorer import explore
from tests.widgets.samples import batches, two_layers

WAIT = 60


def prune(state, density):
    state.density = density
    state.prune()
    assert state.wait(WAIT)
    assert state.error == ""


def shown(point):
    return point.quantizer, point.compression_ratio, point.predicted_loss_increase


def test_pruned_module_is_estimated_quantized_measured_and_saved(tmp_path):
    model = two_layers()
    state = ExplorerState(model, batches(), ratio=12.0)
    assert state.wait(WAIT)
    h, original = state.sensitivity, nq.evaluate(model, batches(), progress=False)
    prune(state, 0.3)
    assert state.pruned.density == pytest.approx(0.3)
    assert state.sensitivity is not h
    assert state.point.ledger["position_payload"] > 0
    assert sum(int((t.weight != 0).sum()) for t in state.selection if t.weight.ndim == 2) == 300
    state.measure()
    state.save(tmp_path / "model.nbq")
    assert state.wait(WAIT)
    assert state.measurement.original == original  # of what was given
    restored = nq.load(tmp_path / "model.nbq").apply(model)
    assert nq.evaluate(restored, batches(), progress=False, reference=model) == state.measurement.evaluation
    assert int((restored[0].weight != 0).sum()) == int((state.pruned.model[0].weight != 0).sum())
    assert int((model[0].weight == 0).sum()) == 0


def test_pruning_starts_from_the_module_that_was_given():
    state = ExplorerState(two_layers(), batches(), ratio=6.0, layers="2")
    assert state.wait(WAIT)
    prune(state, 0.25)
    prune(state, 0.5)
    assert state.pruned.density == pytest.approx(0.5)
    assert state.layers == ("2",)
    state.layers = ("0", "2")
    assert state.wait(WAIT)
    assert state.error == ""
    assert sum(int((t.weight != 0).sum()) for t in state.selection if t.weight.ndim == 2) == 500


def test_without_data_weights_are_only_set_to_zero():
    model = two_layers()
    h = {name: torch.rand(p.shape) + 0.01 for name, p in model.named_parameters()}
    state = ExplorerState(model, sensitivity=h, ratio=6.0)
    assert state.wait(WAIT)
    prune(state, 0.2)
    kept = state.pruned.masks["0.weight"]
    weight = next(t.weight for t in state.selection if t.name == "0.weight")
    assert torch.equal(weight, torch.where(kept, model[0].weight, 0.0))
    assert torch.equal(state.sensitivity["0.weight"], h["0.weight"])


def test_density_out_of_range_is_an_error_and_changes_nothing():
    state = ExplorerState(two_layers(), batches(), ratio=6.0)
    assert state.wait(WAIT)
    before = state.point
    state.density = 0.0
    state.prune()
    assert state.wait(WAIT)
    assert "density" in state.error
    assert state.point is before
    assert state.pruned is None


def test_density_is_a_finite_number():
    state = ExplorerState(two_layers(), batches(), ratio=6.0)
    with pytest.raises(TraitError, match="density"):
        state.density = math.nan
    assert state.density == 0.1


def test_undo_goes_back_to_the_module_before_and_redo_to_the_pruned_one():
    state = ExplorerState(two_layers(), batches(), ratio=8.0)
    assert state.wait(WAIT)
    sensitivity, point, originally = state.sensitivity, state.point, state.exact.dequantize()
    prune(state, 0.3)
    pruned, masked = state.pruned, state.exact.dequantize()
    state.ratio = 12.0
    assert state.wait(WAIT)
    state.undo()
    state.undo()
    assert state.wait(WAIT)
    assert (state.pruned, state.pruned_to, state.sensitivity) == (None, None, sensitivity)
    assert shown(state.point) == shown(point)
    assert all(torch.equal(a, originally[name]) for name, a in state.exact.dequantize().items())
    assert "nq.prune(" not in state.code()
    state.redo()
    assert state.wait(WAIT)
    assert state.pruned is pruned
    assert all(torch.equal(a, masked[name]) for name, a in state.exact.dequantize().items())
    state.finetune()
    assert state.wait(WAIT)
    assert state.error == ""
    assert "nq.prune(model, 0.3" in state.code()


def test_undo_of_pruning_without_data():
    model = two_layers()
    h = {name: torch.rand(p.shape) + 0.01 for name, p in model.named_parameters()}
    state = ExplorerState(model, sensitivity=h, ratio=6.0)
    assert state.wait(WAIT)
    point = state.point
    prune(state, 0.2)
    state.undo()
    assert state.wait(WAIT)
    assert (state.pruned, state.error) == (None, "")
    assert shown(state.point) == shown(point)


def test_view_prunes():
    explorer = explore(two_layers(), batches(), ratio=6.0)
    assert explorer.state.wait(WAIT)
    explorer.density = 0.25
    explorer._handle_custom_msg({"kind": "act", "name": "prune"}, [])
    assert explorer.state.wait(WAIT)
    assert explorer.state.pruned.density == pytest.approx(0.25)
    assert "Pruned to a density of 0.25." in explorer.outcome
    assert "pruned zeros" in explorer.histogram["layout"]["title"]["text"]
