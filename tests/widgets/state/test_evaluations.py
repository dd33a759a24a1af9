"""What was measured of many points, and the rate-distortion figure of it."""

import pytest
import torch

from nbquant.widgets.jobs import network as jobs
from nbquant.widgets.panels.rate_distortion import RATE_DISTORTION, clickable, data, measured_values
from nbquant.widgets.state import ExplorerState
from tests.widgets.samples import WAIT, batches, sensitivities, two_layers


def explored(data=None, **inputs):
    model = two_layers()
    state = ExplorerState(model, data or batches(), sensitivity=sensitivities(model), ratio=6.0, **inputs)
    assert state.wait(WAIT)
    return state


def test_every_point_at_rest_is_kept_with_its_errors_and_no_result():
    state = explored(method="kmeans")
    for ratio in (8.0, 12.0):
        state.ratio = ratio
        assert state.wait(WAIT)
    assert len(state.evaluated) == 3
    last, beside = state.evaluated[-1], state.measurement.evaluation.comparison
    assert last.compression_ratio == state.exact.compression_ratio
    assert (last.accuracy_lost, last.accuracy_error) == (-100 * beside.accuracy_change, 100 * beside.accuracy_error)
    assert (last.divergence, last.divergence_error) == (beside.kl_mean, beside.kl_error)
    assert measured_values(state) == {"accuracy": last.accuracy_lost, "divergence": last.divergence}


def test_all_samples_take_the_place_of_some_and_stay(monkeypatch):
    monkeypatch.setattr(jobs, "GLANCE", 0.0)  # as few as there can be
    torch.manual_seed(1)
    state = explored([(torch.randn(50, 20), torch.randint(5, (50,))) for _ in range(8)])
    (first,) = state.evaluated
    assert first.partial
    state.measure()
    assert state.wait(WAIT)
    (found,) = state.evaluated
    assert (found.partial, found.labels) == (False, 400)
    state.measure_at_rest = False
    state.measure_at_rest = True
    assert state.wait(WAIT)
    assert state.evaluated == (found,)


def test_figure_shows_measured_points_only_with_their_pins():
    state = explored(method="kmeans")
    state.pin()
    state.measure_at_rest = False
    state.ratio = 10.0
    assert state.wait(WAIT)
    state.pin()  # not measured
    assert len(data(state, False).pins) == 2
    state.axis = "accuracy"
    found = data(state, False)
    assert [p.label for p in found.points] == ["A"]
    assert found.value.tolist() == [state.evaluated[0].accuracy_lost]
    assert found.unmeasured == 1
    assert found.ratio_range[1] > 10  # that of the curves, so that a drag means the same
    assert clickable(state) == [None, ("kmeans", True)]
    assert RATE_DISTORTION.figure(state)["layout"]["meta"] == {"quantity": "accuracy"}
    assert RATE_DISTORTION.describe(state).startswith("Accuracy lost over compression ratio, of 1 measured")
    assert measured_values(state) == {}
    state.axis = "divergence"
    assert data(state, False).value.tolist() == [state.evaluated[0].divergence]
    assert RATE_DISTORTION.frame(state)["labels"].tolist() == [64]


@pytest.mark.parametrize("change", [{"layers": ("0",)}, {"damping": 0.3}])
def test_points_of_other_curves_are_forgotten(change):
    state = explored(measure_at_rest=False)
    state.measure()
    assert state.wait(WAIT)
    assert len(state.evaluated) == 1
    for name, value in change.items():
        setattr(state, name, value)
    assert state.wait(WAIT)
    assert state.evaluated == ()
