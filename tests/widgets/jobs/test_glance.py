"""A point that has come to rest is measured on some samples."""

import time

import torch
from torch import nn

import nbquant as nq
from nbquant.widgets.jobs import network as jobs
from nbquant.widgets.panels.rate_distortion import data
from nbquant.widgets.state import ExplorerState
from tests.widgets.samples import batches, sensitivities, two_layers

WAIT = 60


class Slow(nn.Module):
    """Takes a millisecond a sample."""

    def __init__(self):
        super().__init__()
        self.inner = two_layers()

    def forward(self, x):
        time.sleep(1e-3 * len(x))
        return self.inner(x)


def explored(model, data, **inputs):
    state = ExplorerState(model, data, sensitivity=sensitivities(model), ratio=6.0, **inputs)
    assert state.wait(WAIT)
    return state


def test_point_at_rest_is_measured_with_its_paired_error():
    state = explored(two_layers(), batches())
    found = state.measurement
    assert found.quantized is state.exact
    assert (found.at_rest, found.partial) == (True, False)  # there are 64 samples
    applied = state.exact.apply(two_layers())
    assert found.evaluation == nq.evaluate(applied, batches(), progress=False, reference=two_layers())
    state.ratio = 8.0
    assert state.wait(WAIT)
    assert state.measurement.quantized is state.exact
    assert state.measurement is not found


def test_as_many_samples_as_take_about_the_time(monkeypatch):
    monkeypatch.setattr(jobs, "GLANCE", 0.4)
    torch.manual_seed(1)
    many = [(torch.randn(50, 20), torch.randint(5, (50,))) for _ in range(100)]
    state = explored(Slow(), many)
    found = state.measurement
    assert found.partial
    assert 50 <= found.evaluation.samples <= 1000  # two networks at a millisecond a sample, and no exact clock
    assert found.original.samples == found.evaluation.samples
    samples = found.evaluation.samples
    state.ratio = 8.0
    assert state.wait(WAIT)
    assert state.measurement.evaluation.samples >= samples
    assert state.measurement.original.accuracy == found.original.accuracy or samples < found.evaluation.samples


def test_measuring_all_replaces_it_and_stays(monkeypatch):
    monkeypatch.setattr(jobs, "GLANCE", 0.05)
    torch.manual_seed(1)
    many = [(torch.randn(50, 20), torch.randint(5, (50,))) for _ in range(8)]
    state = explored(Slow(), many)
    assert state.measurement.partial
    state.pin()
    assert state.pins[0].accuracy is None  # of some samples only
    state.measure()
    assert state.wait(WAIT)
    assert (state.measurement.partial, state.measurement.evaluation.samples) == (False, 400)
    assert state.pins[0].accuracy == state.measurement.evaluation.accuracy
    state.ratio = 8.0
    assert state.wait(WAIT)
    state.ratio = 6.0
    assert state.wait(WAIT)
    assert state.measurement.evaluation.samples == 400


def test_it_can_be_turned_off_and_on():
    state = explored(two_layers(), batches(), measure_at_rest=False)
    assert state.measurement is None
    state.measure_at_rest = True
    assert state.wait(WAIT)
    assert state.measurement.quantized is state.exact


def test_without_data_nothing_is_tried():
    state = ExplorerState(two_layers(), ratio=6.0)
    assert state.wait(WAIT)
    assert state.measurement is None
    assert state.error == ""


def test_few_of_them_are_kept():
    """Each keeps the indices of all weights."""
    torch.manual_seed(1)
    state = explored(Slow(), [(torch.randn(600, 20), torch.randint(5, (600,)))] * 5)
    for levels in range(2, 14):
        state.levels = levels
        assert state.wait(WAIT)
    assert state.measurement.partial
    assert 2 <= len([m for m in state.measured if m.partial]) <= 8


def test_fine_tuned_values_are_measured_too():
    state = explored(two_layers(), batches())
    state.finetune()
    assert state.wait(WAIT)
    assert state.measurement.quantized is state.finetuned.quantized


def test_figure_of_curves_shows_only_what_was_asked_for():
    state = explored(two_layers(), batches(), method="kmeans")
    assert data(state, whole=True).measured == ()
    state.measure()
    assert state.wait(WAIT)
    assert len(data(state, whole=True).measured) == 1
