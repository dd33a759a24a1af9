import threading

import pytest
import torch
from torch import nn

import nbquant as nq
from nbquant.analysis.target import Target
from nbquant.kernels import dispatch
from nbquant.quantization.kmeans import KMeans
from nbquant.widgets.jobs import exact as module
from nbquant.widgets.jobs.network import Data
from nbquant.widgets.state import ExplorerState
from tests.widgets.samples import WAIT, batches, network, sensitivities


def test_first_results_are_there_without_a_browser(state):
    assert state.error == ""
    assert state.activity == ""
    assert state.layers == ("0", "2", "4")
    assert len(state.curves) == 6
    assert state.point.compression_ratio >= 6.0
    assert state.focus == "2.weight"  # the largest


def test_target_moves_the_point_at_once(state):
    for ratio in (5.0, 7.5, 10.0):
        state.ratio = ratio
        assert ratio <= state.point.compression_ratio < 1.1 * ratio
        assert state.error == ""


def test_ratio_out_of_reach_is_an_error_and_keeps_the_last_point(state):
    before = state.point
    state.ratio = 1000.0
    assert "out of reach" in state.error
    assert state.point is before
    state.ratio = 7.0
    assert state.error == ""
    assert state.point is not before


@pytest.mark.parametrize("ratio", [0.0, -3.0, float("nan"), float("inf")])
def test_senseless_ratio_is_an_error_and_keeps_the_last_point(state, ratio):
    before = state.point
    state.ratio = ratio
    assert "ratio" in state.error
    assert state.point is before


def test_method_and_weighting_choose_among_ready_curves(state):
    for method in ("kmeans", "uniform", "ecsq"):
        for weighted in (False, True):
            state.method, state.weighted = method, weighted
            assert (state.point.quantizer.method, state.point.quantizer.weighted) == (method, weighted)
            assert not state._jobs.busy("curves")


def test_layers_change_the_selection(state):
    state.layers = ("2",)
    assert state.wait(WAIT)
    assert state.parameters == ("2.weight", "2.bias")
    assert state.point.weights == 40 * 30 + 30


def test_no_layers_is_an_error_and_keeps_the_last_point(state):
    before = state.point
    state.layers = ()
    assert state.wait(WAIT)
    assert "at least one" in state.error
    assert state.point is before
    state.layers = ("0",)
    assert state.wait(WAIT)
    assert state.error == ""
    assert state.point.weights == 20 * 40 + 40


def test_unknown_layer_is_an_error_with_the_nearest_name(state):
    state.layers = ("22",)
    assert state.wait(WAIT)
    assert "'2'" in state.error


def test_coding_and_codebooks_recompute_the_curves(state):
    state.coding = "fixed"
    assert state.wait(WAIT)
    assert state.point.ledger["code_table"] == 0
    state.per_layer = True
    assert state.wait(WAIT)
    assert list(state.point.clusters) == ["0", "2", "4"]
    assert state.group == "2"
    state.focus = "4.weight"
    assert state.group == "4"


def test_damping_reaches_what_is_shown_and_what_is_applied(state):
    before = state.point.predicted_loss_increase
    state.damping = 10.0
    assert state.wait(WAIT)
    assert state.point.predicted_loss_increase > 3 * before
    assert state.exact.predicted_loss_increase == pytest.approx(state.point.predicted_loss_increase, rel=0.1)
    damped = nq.select(network(), state.sensitivity.damped(10.0))
    assert state.exact.predicted_loss_increase == pytest.approx(loss_of(state.exact, damped), rel=1e-4)


def loss_of(quantized, selection):
    dense = quantized.dequantize()
    return float(sum((0.5 * t.sensitivity * (t.weight - dense[t.name]) ** 2).sum() for t in selection))


def test_exact_pass_follows_and_meets_the_target(state):
    assert Target("ratio", 6.0).met(state.exact)
    for ratio in (7.0, 8.0, 9.0):
        state.ratio = ratio
        assert state.exact is None
    assert state.wait(WAIT)
    assert Target("ratio", 9.0).met(state.exact)
    assert state.exact.compression_ratio == pytest.approx(state.point.compression_ratio, rel=0.02)
    exact = state.exact
    state.measure()
    assert state.wait(WAIT)
    assert state.measurement.quantized is exact


@pytest.fixture
def fitted(monkeypatch):
    """Targets that the weights are fitted to."""
    found, real = [], module.FitRequest.quantize

    def quantize(request, *rest):
        found.append(request.settings.target)
        return real(request, *rest)

    monkeypatch.setattr(module.FitRequest, "quantize", quantize)
    return found


def test_ticks_while_the_exact_pass_runs_get_the_newest_only(state, fitted):
    for i in range(8):
        state.ratio = 6.5 + i / 4
    assert state.wait(WAIT)
    assert fitted == [Target("ratio", 8.25)]


def test_no_change_of_an_input_looks_at_the_weights_but_in_the_exact_pass(state, monkeypatch):
    monkeypatch.setattr(
        module.ExactPass, "follow", lambda self, request: None
    )  # the exact pass is there to look at them
    for name in ("assign", "assign_grid", "histogram", "gap_counts"):
        monkeypatch.setattr(dispatch, name, lambda *args: pytest.fail("looked at the weights"))
    for name, value in (
        ("layers", ("0", "4")),
        ("damping", 1.0),
        ("ratio", 5.0),
        ("method", "ecsq"),
        ("layers", ("2",)),
    ):
        setattr(state, name, value)
        assert state._jobs.wait(WAIT, ("curves",))
        assert state.error == ""
    assert state.point.weights == 40 * 30 + 30


def test_a_layer_that_was_not_looked_at_is_when_it_is_selected():
    model = network()
    state = ExplorerState(model, batches(), sensitivity=sensitivities(model), ratio=6.0, layers="0")
    assert state.wait(WAIT)
    assert state.point.weights == 20 * 40 + 40
    state.layers = ("0", "4")
    assert state.wait(WAIT)
    assert state.error == ""
    assert state.point.weights == 20 * 40 + 40 + 30 * 5 + 5


def test_measure_gives_accuracy_of_what_fit_returns(state):
    state.measure()
    assert state.wait(WAIT)
    assert state.error == ""
    measured = state.measurement
    assert measured.evaluation.samples == 64
    assert Target("ratio", state.ratio).met(measured.quantized)
    ratio = state.ratio
    state.ratio = ratio + 1
    assert state.measurement is None  # it was not measured there
    state.ratio = ratio
    assert state.measurement is measured  # it was measured here


def test_measure_takes_the_point_that_is_shown_while_the_chosen_curve_is_not_there_yet(state):
    shown = state.point
    state.set_trait("curves", {("kmeans", True): state.curves["kmeans", True]})
    state.method = "ecsq"
    assert state.point is shown
    state.measure()
    assert state.wait(WAIT)
    assert state.measurement.point is shown
    assert state.measurement.quantized.quantizer.method == "kmeans"


def test_sensitivities_in_a_plain_mapping_are_damped_as_estimated_ones():
    model = network()
    given = sensitivities(model)
    state = ExplorerState(model, batches(), sensitivity=given, damping=0.5, ratio=6.0)
    assert state.wait(WAIT)
    mean = float(torch.cat([h.reshape(-1) for h in given.values()]).mean())
    assert state.statistics.offset == pytest.approx(0.5 * mean)


def test_measuring_leaves_the_users_model_alone():
    model = network()
    before = {name: p.clone() for name, p in model.named_parameters()}
    state = ExplorerState(model, batches())
    assert state.wait(WAIT)
    state.measure()
    assert state.wait(WAIT)
    assert state.measurement is not None
    assert model.training
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_sensitivities_are_estimated_if_none_are_given():
    state = ExplorerState(network(), batches())
    assert state.wait(WAIT)
    assert state.sensitivity.method == "gauss_newton_sampled"
    assert state.selection.sensitivity is not None
    state.estimator = "empirical_fisher"
    assert state.wait(WAIT)
    assert state.sensitivity.method == "empirical_fisher"


def test_estimator_that_cannot_treat_the_model_is_an_error_and_keeps_the_last_sensitivities():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(20, 20), nn.Linear(20, 5)

        def forward(self, x):
            return self.b(x + self.a(x))

    state = ExplorerState(Residual(), batches())
    assert state.wait(WAIT)
    before, point = state.sensitivity, state.point
    state.estimator = "becker_lecun"
    assert state.wait(WAIT)
    assert "becker_lecun" in state.error
    assert state.sensitivity is before
    assert state.point is point
    state.ratio = state.ratio + 1
    assert "becker_lecun" in state.error  # what is chosen is still not what is in use
    state.estimator = "empirical_fisher"
    assert state.wait(WAIT)
    assert state.error == ""


def test_curves_with_equal_weights_come_before_the_sensitivities():
    go = threading.Event()

    class Slow:
        def __iter__(self):
            go.wait(WAIT)
            return iter(batches())

    state = ExplorerState(network(), Data(Slow(), batches(), batches()))
    assert state._jobs.wait(WAIT, ("curves",))
    assert state.point is not None
    assert state.sensitivity is None
    assert state.activity == "Estimating sensitivities"
    go.set()
    assert state.wait(WAIT)
    assert state.sensitivity is not None
    assert state.activity == ""


def test_cancel_stops_the_estimate_and_the_state_stays_usable():
    started = threading.Event()

    class Endless:
        def __iter__(self):
            while True:
                started.set()
                yield from batches()

    state = ExplorerState(network(), Data(Endless(), batches(), batches()))
    assert started.wait(WAIT)
    assert state._jobs.wait(WAIT, ("curves",))
    state.cancel()
    assert state.wait(WAIT)
    assert state.activity == ""
    assert state.sensitivity is None
    state.ratio = 7.0
    assert state.point.compression_ratio >= 7.0


def test_loss_that_raises_is_shown():
    def loss(output, target):
        raise RuntimeError("out of cheese")

    state = ExplorerState(network(), batches(), loss=loss)
    assert state.wait(WAIT)
    assert "out of cheese" in state.error
    assert state.point is not None


def test_latest_of_many_settings_wins(state):
    for layers in (("0",), ("2",), ("4",), ("0", "4"), ("2", "4")):
        state.layers = layers
    assert state.wait(WAIT)
    assert state.selection.layers == ("2", "4")
    assert state.point.weights == state.statistics.weights == 40 * 30 + 30 + 30 * 5 + 5


def test_ratio_bounds_hold_every_curve(state):
    low, high = state.ratio_bounds
    ratios = [p.compression_ratio for points in state.curves.values() for p in points if p.levels > 1]
    assert low <= min(ratios)
    assert high >= max(ratios)


def test_first_values_can_be_given():
    model = network()
    state = ExplorerState(
        model, batches(), sensitivity=sensitivities(model), method="kmeans", layers=("0", "2"), ratio=8.0
    )
    assert state.wait(WAIT)
    assert isinstance(state.point.quantizer, KMeans)
    assert state.selection.layers == ("0", "2")


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ({"rato": 3.0}, TypeError, "'rato'"),
        ({"method": "kmean"}, ValueError, "kmeans, uniform, ecsq"),
        ({"damping": -1.0}, ValueError, "damping"),
        ({"layers": ("7",)}, ValueError, "'7'"),
        ({"layers": ()}, ValueError, "at least one"),
        ({"point": None}, TypeError, "'point'"),
    ],
)
def test_wrong_first_values_are_refused(inputs, error, message):
    with pytest.raises(error, match=message):
        ExplorerState(network(), batches(), **inputs)


def test_layers_may_be_globs_or_modules():
    model = network()
    assert ExplorerState(model, batches(), layers=[model[2], "4*"]).layers == ("2", "4")


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        ExplorerState(3, batches())


def test_parameters_of_the_model_itself():
    state = ExplorerState(nn.Linear(20, 5), batches(), ratio=3.0)
    assert state.wait(WAIT)
    assert state.error == ""
    assert state.point.weights == 105


def test_data_that_is_read_once_only_is_refused():
    with pytest.raises(ValueError, match="iterator"):
        Data.of(iter(batches()))
    with pytest.raises(TypeError, match="calibration"):
        Data.of(3)


def test_what_weights_give_is_fitted_to_the_newest_target_even_at_the_same_levels(state, fitted):
    before = state.point
    state.ratio = (6.0 + before.compression_ratio) / 2
    assert state.point.quantizer == before.quantizer
    assert state.wait(WAIT)
    assert fitted == [Target("ratio", state.ratio)]
    assert fitted[0].met(state.exact)


def test_the_users_model_may_change_while_there_are_no_sensitivities(monkeypatch):
    monkeypatch.setattr(ExplorerState, "estimate", lambda self: None)
    model = network()
    state = ExplorerState(model, batches(), ratio=6.0)
    assert state.wait(WAIT)
    before = state.exact.codebook
    with torch.no_grad():
        model[2].weight.zero_()
    state.ratio = 6.001
    assert state.wait(WAIT)
    assert torch.equal(state.exact.codebook, before)


def test_any_of_five_quantities_drives_and_the_others_follow(state):
    for method, name, value in (
        ("kmeans", "rate", 4.0),
        ("kmeans", "levels", 7),
        ("ecsq", "lmbda", 1e-4),
        ("uniform", "step", 0.05),
        ("uniform", "ratio", 7.0),
    ):
        state.method = method
        setattr(state, name, value)
        assert (state.driver, getattr(state, name), state.error) == (name, value, "")
        point = state.point
        assert point.quantizer.method == method
        followed = {"ratio": point.compression_ratio, "rate": point.rate, "levels": point.levels}
        followed |= {"lmbda": point.parameter if method == "ecsq" else 0.0}
        followed |= {"step": point.parameter if method == "uniform" else 0.0}
        del followed[name]
        assert {n: getattr(state, n) for n in followed} == followed


def test_method_without_the_driving_parameter_keeps_the_ratio(state):
    state.method = "ecsq"
    state.drive("lmbda", 1e-4)
    ratio = state.point.compression_ratio
    state.method = "kmeans"
    assert (state.driver, state.ratio, state.lmbda) == ("ratio", ratio, 0.0)
    assert state.point.compression_ratio >= ratio
    state.lmbda = 1e-3
    assert "parameter of ecsq" in state.error
    assert (state.driver, state.ratio, state.lmbda) == ("ratio", ratio, 0.0)
    state.undo()
    assert (state.method, state.driver, state.lmbda, state.error) == ("ecsq", "lmbda", 1e-4, "")


def test_table_is_computed_with_the_curve_and_not_on_a_tick(state):
    table = state.table
    assert (table.method, table.weighted, len(table.ratio)) == ("kmeans", True, len(state.curves["kmeans", True]))
    assert table.ledger["unquantized"][0] == state.selection.unselected_bits
    state.ratio, state.focus = 7.0, "0.weight"
    assert state.table is table
    state.method = "ecsq"
    assert state.table.method == "ecsq"
    state.per_layer = True
    assert state.wait(WAIT)
    first = state.table
    state.focus = "4.weight"
    assert state.table is not first
    assert state.table.mean_h != first.mean_h


def test_undo_of_a_drag_and_of_several_inputs_computes_once(state, monkeypatch):
    started = []
    real = module.ExactPass.follow
    monkeypatch.setattr(
        module.ExactPass, "follow", lambda self, request: (started.append(request), real(self, request))[1]
    )
    for ratio in (6.5, 7.0, 7.5):
        state.ratio = ratio
    state.undo()
    assert (state.ratio, state.can_undo, state.can_redo) == (6.0, False, True)
    state.redo()
    state.choose_point("ecsq", False, "rate", 5.0)
    started.clear()
    state.undo()
    assert (state.method, state.weighted, state.driver, state.ratio) == ("kmeans", True, "ratio", 7.5)
    assert len(started) == 1


def test_several_inputs_of_which_one_is_wrong_change_nothing(state):
    before, point = state.settings, state.point
    for method, driver, value in (("ecsq", "step", 0.1), ("kmeanz", "ratio", 5.0), ("ecsq", "rate", float("nan"))):
        state.choose_point(method, False, driver, value)
        assert state.error != ""
        assert state.settings == before
        assert state.point is point
    assert (state.method, state.weighted, state.can_undo) == ("kmeans", True, False)


def test_several_targets_at_once_are_refused():
    with pytest.raises(ValueError, match="at most one"):
        ExplorerState(network(), ratio=5.0, levels=4)
    with pytest.raises(ValueError, match="parameter of ecsq"):
        ExplorerState(network(), lmbda=0.1)


def test_pinned_zero_is_for_kmeans(state):
    state.pinned_zero = True
    assert state.wait(WAIT)
    assert 0.0 in state.exact.codebook
    state.method = "ecsq"
    assert state.wait(WAIT)
    assert state.error == ""


def test_centre_moved_by_hand_and_released(state):
    value = 1.1 * float(state.point.clusters["all"].codebook[0])
    state.move_centre(0, value)
    by_hand = state.by_hand
    assert by_hand.clusters["all"].codebook[0] == value
    assert by_hand.predicted_loss_increase > state.point.predicted_loss_increase
    for index, value in ((99, 0.0), (0, float("nan")), (0.5, 0.0)):
        state.move_centre(index, value)
        assert state.error != ""
        assert state.by_hand is by_hand
    state.release()
    assert (state.by_hand, state.error) == (None, "")
    state.move_centre(0, value)
    assert state.by_hand is not None
    state.ratio = 7.0
    assert state.by_hand is None


def test_brushed_weights_are_those_of_the_region_until_the_focus_changes(state):
    state.brush((-0.4, 4.2), (1.6, 3.4))
    assert state.wait(WAIT)
    weight = dict(network().named_parameters())["2.weight"]
    assert torch.equal(state.brushed.weight, weight[2:4, 0:5].detach().reshape(-1))
    assert "2.weight" in state.brushed.label
    state.brush_text("0:2, 3")
    assert state.wait(WAIT)
    assert torch.equal(state.brushed.weight, weight[0:2, 3].detach())
    kept = state.brushed
    state.brush_text("nonsense")
    assert state.error != ""
    assert state.brushed is kept
    state.focus = "0.weight"
    assert (state.brushed, state.error) == (None, "")


def test_breakdown_adds_up_to_the_exact_result(state):
    found = state.breakdown
    assert found.layers["predicted_loss"].sum() == pytest.approx(state.exact.predicted_loss_increase)
    state.ratio = 7.0
    assert state.breakdown is None
    assert state.wait(WAIT)
    assert list(state.breakdown.codewords["all"]["count"]) == state.exact.counts.tolist()


def test_estimates_that_were_in_use_are_at_hand_again(state, monkeypatch):
    given, exact = state.sensitivity, state.exact
    state.samples = 20
    assert state.wait(WAIT)
    assert state.sensitivity.samples == 20
    monkeypatch.setattr(
        "nbquant.widgets.jobs.network.sensitivity", lambda *args, **kwargs: pytest.fail("estimated again")
    )
    state.undo()
    assert state.sensitivity is given
    assert state.wait(WAIT)
    assert torch.equal(state.exact.codebook, exact.codebook)
    state.redo()
    assert state.sensitivity.samples == 20
    assert state.wait(WAIT)
    assert state.error == ""


def test_measurement_brings_the_prediction(state):
    state.measure()
    assert state.wait(WAIT)
    found = state.measurement.prediction
    assert found.samples == 64
    assert len(state.measured) == 1
    assert found.measured == pytest.approx(
        state.measurement.evaluation.loss - state.measurement.original.loss, rel=1e-3
    )


def test_tick_while_other_layers_come_is_of_the_old_ones(state):
    go, real = threading.Event(), state._weights.looking_at
    state._weights.looking_at = lambda selection: lambda report: (go.wait(WAIT), real(selection)(report))[1]
    state.layers = ("2",)
    state.ratio = 7.0
    request = state._exact.request
    assert [t.name for t in request.selection] == [t.name for t in request.statistics.tensors]
    assert request.settings.layers == ("0", "2", "4")
    go.set()
    assert state.wait(WAIT)
    assert state._exact.request.settings == state.settings


def test_methods_that_run():
    """Their points come in the background; the code of the file is one that keeps what they gain."""
    state = ExplorerState(network(), batches(), ratio=8.0)
    assert state.wait()
    for method in ("trellis", "feedback"):
        state.method = method
        assert state.wait()
        assert state.error == ""
        assert state.coding == "context"
        assert state.point.quantizer.method == method
        assert state.exact.compression_ratio >= 8
        assert state.table.method == method
        assert f"'{method}'" in state.code()
    assert "nq.calibrate(model, " in state.code()
    ran = len(state.curves["feedback", True])
    state.ratio = 7.9
    assert state.wait()
    assert len(state.curves["feedback", True]) == ran
    state.ratio = 25.0
    assert state.wait()
    assert state.exact.compression_ratio >= 25
    assert len(state.curves["feedback", True]) > ran
    state.move_centre(0, 0.1)
    assert "cannot be moved" in state.error
    state.lmbda = 1e-3
    assert "lmbda is a parameter of ecsq, but the method is 'feedback'" in state.error


def test_feedback_needs_data():
    state = ExplorerState(network(), ratio=8.0)
    assert state.wait()
    state.method = "feedback"
    assert state.wait()
    assert "error feedback cannot be calibrated: there are no data" in state.error
    state.method = "trellis"
    assert state.wait()
    assert state.error == ""
    assert state.point.quantizer.method == "trellis"


def test_the_bound_comes_with_the_curves():
    state = ExplorerState(network(), batches(), ratio=8.0)
    assert state.wait()
    before = state.bound
    assert (before.lower <= before.rate + 1e-9).all()
    state.layers = state.layers[:1]
    assert state.wait()
    assert state.bound is not None
    assert state.bound is not before


@pytest.mark.parametrize("frozen", [("0",), ("0", "2", "4")])
def test_frozen_layers_are_weighed_too_and_stay_frozen(frozen):
    model = network()
    for name in frozen:
        model.get_submodule(name).requires_grad_(False)
    needed = [p.requires_grad for p in model.parameters()]
    state = ExplorerState(model, batches(), ratio=5.0)
    assert state.wait(WAIT)
    assert state.error == ""
    assert set(state.sensitivity) == {name for name, _ in model.named_parameters()}
    assert [p.requires_grad for p in model.parameters()] == needed


@pytest.mark.parametrize("ratio", [7.0, 11.0])
def test_a_method_that_runs_meets_the_target_closely_once_its_points_are_there(ratio):
    state = ExplorerState(network(), method="trellis", ratio=ratio)
    assert state.wait(WAIT)
    assert Target("ratio", ratio).met(state.exact)
    assert Target("ratio", ratio).is_close(state.exact, 0.06)  # of a small network rates are steps


def test_curve_that_ran_stays_while_its_settings_hold():
    model = network()
    state = ExplorerState(model, sensitivity=sensitivities(model), method="trellis", ratio=8.0)
    assert state.wait(WAIT)
    ran, options = state.curves["trellis", True], (state.coding, state.per_layer)
    state.method = "kmeans"
    assert state.wait(WAIT)
    assert state.curves["trellis", True] is ran
    state.method = "trellis"
    assert state.wait(WAIT)
    assert (state.coding, state.per_layer) == options
    assert state.curves["trellis", True][0] in ran
    state.method = "kmeans"
    state.coding = "fixed"
    assert state.wait(WAIT)
    assert state.point.quantizer.coding == "fixed"
    state.choose_point("trellis", True, "ratio", 8.0)  # its curve is of another code, and is not taken for this one's
    assert state.wait(WAIT)
    assert state.point.quantizer.coding == state.coding == "fixed"
    state.damping = 0.5
    state.method = "kmeans"
    assert state.wait(WAIT)
    assert not any(points is ran for points in state.curves.values())
