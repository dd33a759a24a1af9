import pytest
import torch
from torch import nn

from nbquant.widgets.explorer import explore

WAIT = 60


@pytest.fixture
def explorer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 5))
    data = [(torch.randn(16, 20), torch.randint(5, (16,))) for _ in range(4)]
    h = {name: torch.rand(p.shape) + 0.01 for name, p in model.named_parameters()}
    explorer = explore(model, data, sensitivity=h, ratio=6.0)
    assert explorer.state.wait(WAIT)
    return explorer


def revisions(explorer):
    return {name: explorer.panel.revision(name) for name in explorer.panel.names}


def test_all_figures_are_drawn(explorer):
    late = revisions(explorer).pop("finetuning")
    assert late == 0
    assert all(revision > 0 for name, revision in revisions(explorer).items() if name != "finetuning")
    assert "6.0" in explorer._readout.value


@pytest.mark.parametrize(
    ("control", "value"), [("_ratio", 8.0), ("_method", "ecsq"), ("_weighted", False), ("_coding", "fixed")]
)
def test_control_moves_state_and_figures(explorer, control, value):
    before = revisions(explorer)
    getattr(explorer, control).value = value
    assert explorer.state.wait(WAIT)
    assert getattr(explorer.state, control.removeprefix("_")) == value
    after = revisions(explorer)
    assert after["histogram"] > before["histogram"]
    assert after["rate_distortion"] > before["rate_distortion"]
    assert after["heatmap"] == before["heatmap"]


def test_state_moves_controls(explorer):
    explorer.state.ratio = 9.0
    explorer.state.layers = ("0",)
    assert explorer.state.wait(WAIT)
    assert explorer._ratio.value == 9.0
    assert explorer._layers.value == ("0",)
    assert explorer._focus.options == (("0.weight", "0.weight"), ("0.bias", "0.bias"))


def test_slider_does_not_cut_a_ratio_before_the_curves_are_there():
    torch.manual_seed(0)
    model = nn.Linear(100, 40)
    with torch.no_grad():
        model.weight.mul_(torch.rand(40, 100) < 0.05)
    explorer = explore(model, [(torch.randn(4, 100), torch.randint(40, (4,)))], ratio=60.0)
    assert explorer.state.wait(WAIT)
    assert explorer.state.ratio == 60.0
    assert explorer.state.error == ""


def test_slider_ends_lie_on_its_grid(explorer):
    for end in (explorer._ratio.min, explorer._ratio.max):
        assert round(end / explorer._ratio.step) * explorer._ratio.step == pytest.approx(end, abs=1e-12)
    low, high = explorer.state.ratio_bounds
    assert low <= 10**explorer._ratio.min < 10**explorer._ratio.max <= high


def test_focus_starts_at_the_largest_parameter(explorer):
    assert explorer._focus.value == explorer.state.focus == "0.weight"
    explorer._layers.value = ("2",)
    assert explorer.state.wait(WAIT)
    assert explorer._focus.value == explorer.state.focus == "2.weight"
    explorer._layers.value = ("0", "2")
    assert explorer.state.wait(WAIT)
    assert explorer._focus.value == explorer.state.focus == "2.weight"


def test_focus_moves_the_heat_map_only(explorer):
    before = revisions(explorer)
    explorer._focus.value = "2.weight"
    after = revisions(explorer)
    assert after["heatmap"] > before["heatmap"]
    assert after["histogram"] == before["histogram"]


def test_focus_follows_to_another_codebook_where_layers_have_their_own(explorer):
    explorer._per_layer.value = True
    assert explorer.state.wait(WAIT)
    before = revisions(explorer)
    explorer._focus.value = "2.weight"
    assert revisions(explorer)["histogram"] > before["histogram"]


def test_error_shows_and_the_last_picture_stays(explorer):
    before = revisions(explorer)
    explorer._layers.value = ()
    assert explorer.state.wait(WAIT)
    assert "at least one" in explorer._error.value
    assert revisions(explorer) == before
    explorer._layers.value = ("0", "2")
    assert explorer.state.wait(WAIT)
    assert explorer._error.value == ""


def test_error_text_is_not_markup(explorer):
    explorer.state.layers = ("<img src=x>",)
    assert explorer.state.wait(WAIT)
    assert "&lt;img" in explorer._error.value
    assert "<img" not in explorer._error.value


def test_accuracy_on_demand(explorer):
    assert "of 64" not in explorer._readout.value
    explorer.keep._measure.click()
    assert explorer.state.wait(WAIT)
    assert "of 64" in explorer._readout.value


def test_work_shows_only_while_there_is_some(explorer):
    assert explorer.keep._work.layout.display == "none"


def test_one_layer_more_or_less_keeps_the_slider_within_its_bounds(explorer):
    explorer._layers.value = ("2",)
    assert explorer.state.wait(WAIT)
    assert 10**explorer._ratio.min <= explorer._ratio.value <= 10**explorer._ratio.max
    assert explorer.state.error == ""


def test_pruned_zeros_are_counted(explorer):
    with torch.no_grad():
        model = nn.Sequential(nn.Linear(20, 40))
        model[0].weight.mul_(torch.rand(40, 20) < 0.1)
    pruned = explore(model, [(torch.randn(4, 20), torch.randint(40, (4,)))], ratio=20.0)
    assert pruned.state.wait(WAIT)
    assert pruned.state.point.ledger["position_payload"] > 0
    assert "pruned zeros" in pruned.panel.histogram["layout"]["title"]["text"]
