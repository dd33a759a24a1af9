"""A model whose own parameters make a layer with the empty name: a bare layer, a class token."""

import pytest
import torch
from torch import nn

import nbquant as nq
from nbquant.widgets.state import ExplorerState
from nbquant.widgets.view.readout import caption
from nbquant.widgets.view.tables import layers_table
from tests.widgets.samples import WAIT


class WithToken(nn.Module):
    """Has parameters of its own, and a block that has some beside its layers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.token = nn.Parameter(torch.randn(1, 8))
        self.shift = nn.Parameter(torch.randn(5, 8))
        self.block = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = torch.cat([self.token.expand(len(x), 1, 8), x], 1) + self.shift
        return self.head(self.block(x, x, x, need_weights=False)[0][:, 0])


BATCHES = [(torch.randn(9, 4, 8, generator=torch.Generator().manual_seed(1)), torch.arange(9) % 3)]


@pytest.fixture
def state():
    made = ExplorerState(WithToken(), ratio=4.0)
    assert made.wait(WAIT)
    return made


def test_a_bare_layer_is_explored():
    x = torch.randn(20, 8, generator=torch.Generator().manual_seed(1))
    state = ExplorerState(nn.Linear(8, 3), [(x, torch.arange(20) % 3)], ratio=4.0)
    assert state.wait(WAIT)
    assert state.error == ""
    assert state.layer_sizes == {"": 27}
    assert caption(state).endswith(". (model)")


def test_the_table_names_the_model_itself(state):
    table = layers_table(state)
    assert [row["layer"] for row in table.rows] == ["(model)", "block", "block.out_proj", "head"]
    assert [row["weights"] for row in table.rows] == [48, 216, 72, 27]
    assert all(row["share_of_rate"] is not None for row in table.rows)
    assert table.checked == ["(model)", "block", "block.out_proj", "head"]
    table.focused = "(model)"
    assert state.focus == "shift"
    table.checked = ["head", "(model)"]
    assert state.layers == ("", "head")
    assert state.parameters == ("token", "shift", "head.weight", "head.bias")


def test_only_the_layers_asked_for_are_selected(state):
    state.layers = ("",)
    assert state.wait(WAIT)
    assert state.error == ""
    assert state.parameters == ("token", "shift")
    state.layers = ("block",)
    assert state.parameters == ("block.in_proj_weight", "block.in_proj_bias")


def test_sensitivities_of_the_selected_layers_are_enough():
    model = WithToken()
    given = {"token": torch.rand(1, 8), "shift": torch.rand(5, 8)}
    state = ExplorerState(model, sensitivity=given, layers=["token", "shift"], ratio=3.0)
    assert state.wait(WAIT)
    assert state.error == ""
    assert state.parameters == ("token", "shift")


def test_each_layer_has_a_codebook(state):
    state.per_layer = True
    assert state.wait(WAIT)
    assert state.error == ""
    assert list(state.exact.codebooks) == ["", "block", "block.out_proj", "head"]
    state.focus = "token"
    assert state.group == ""
    assert len(state.breakdown.codewords[""])
    state.pin()
    assert "" in state.pins[0].codebooks


def test_a_session_brings_the_layer_back(state):
    state.layers = ("", "head")
    state.focus = "token"
    assert state.wait(WAIT)
    state.pin()
    kept = state.session()
    other = ExplorerState(WithToken(), ratio=4.0)
    other.restore(kept)
    assert other.wait(WAIT)
    assert (other.error, other.layers, other.focus) == ("", ("", "head"), "token")
    assert other.pins == state.pins


@pytest.mark.parametrize("layers", [("",), ("", "head"), ("block",), ("block", "block.out_proj"), ("head",)])
def test_copied_code_selects_the_same(state, layers):
    state.layers = layers
    assert state.wait(WAIT)
    names = {"model": WithToken()}
    exec(state.code(), names)
    assert [t.name for t in names["selection"]] == list(state.parameters)


def test_a_bare_layer_has_error_feedback():
    layer = nn.Linear(8, 3)
    x = torch.randn(60, 8, generator=torch.Generator().manual_seed(2)) * torch.arange(1, 9)
    batches = [(x, torch.arange(60) % 3)]
    calibration = nq.calibrate(layer, batches, progress=False)
    asked = []

    class Counting:
        outputs, parts, diagonals = calibration.outputs, calibration.parts, calibration.diagonals
        in_turn = calibration.in_turn

        def moments(self, layer, changed):
            asked.append(layer)
            return calibration.moments(layer, changed)

    selection = nq.select(layer, calibration=Counting())
    assert nq.fit(selection, "feedback", ratio=3.0, progress=False).compression_ratio >= 3.0
    assert set(asked) == {"weight"}


def test_a_file_of_codebooks_by_layer_comes_back(state, tmp_path):
    model = WithToken()
    quantized = nq.fit(nq.select(model), "ecsq", ratio=4.0, per_layer=True, progress=False)
    nq.save(quantized, tmp_path / "model.nbq", model, progress=False)
    again = nq.load(tmp_path / "model.nbq").quantized()
    assert list(again.codebooks) == list(quantized.codebooks)
    assert torch.equal(again.tensors["token"].dequantize(), quantized.tensors["token"].dequantize())
