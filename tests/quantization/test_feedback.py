"""Error feedback with a price on bits: what it gains, what it leaves alone, and what every quantizer owes."""

from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import nn

import nbquant as nq
from nbquant.analysis.target import Target
from nbquant.coding import positions
from nbquant.progress import Cancelled
from nbquant.quantization.codebook import PRUNED
from nbquant.quantization.feedback import Feedback
from nbquant.quantization.moments import LayerMoments, Part
from nbquant.quantization.selection import Selection
from nbquant.quantization.tensor import SelectedTensor
from nbquant.quantization.trellis import Trellis


class Network(nn.Module):
    """A convolution and two linear layers, with norms that have no moments."""

    def __init__(self, keep=1.0, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.norm = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6)
        self.fc1, self.fc2 = nn.Linear(6 * 16, 24), nn.Linear(24, 4, bias=False)
        with torch.no_grad():
            for layer in (self.conv, self.fc1, self.fc2):
                layer.weight *= torch.rand(layer.weight.shape) < keep
        self.eval()

    def forward(self, x):
        return self.fc2(self.fc1(self.norm(self.conv(x)).relu().flatten(1)).relu())


def batches(count=6, size=50, seed=1):
    """Images whose pixels go together."""
    g = torch.Generator().manual_seed(seed)
    smooth = torch.randn(36, 36, generator=g)
    return [
        ((torch.randn(size, 36, generator=g) @ smooth).reshape(size, 1, 6, 6), torch.zeros(size, dtype=torch.int64))
        for _ in range(count)
    ]


def selected(keep=1.0, layers=("conv", "fc1", "fc2")):
    model, data = Network(keep), batches()
    calibration = nq.calibrate(model, data, progress=False)
    return model, data, nq.select(model, layers=list(layers), calibration=calibration)


def error(model, data, quantized):
    """Mean squared error of the outputs."""
    other = quantized.apply(model)
    with torch.no_grad():
        return sum(float((model(x) - other(x)).square().mean()) for x, _ in data) / len(data)


def test_fewer_bits_than_the_trellis_at_the_same_error():
    model, data, selection = selected()
    h = nq.sensitivity(model, data, method="gauss_newton", progress=False)
    diagonal = nq.select(model, h, layers=["conv", "fc1", "fc2"])
    found = nq.fit(selection, "feedback", rate=2.0, progress=False)
    peer = nq.fit(diagonal, "trellis", rate=2.0, coding="context", per_layer=True, steps="equal slope", progress=False)
    assert error(model, data, found) < 0.6 * error(model, data, peer)


def test_layers_make_up_for_those_before():
    model, data, selection = selected()
    errors = [
        error(model, data, nq.fit(selection, "feedback", lmbda=lmbda, progress=False))
        < error(model, data, Feedback(lmbda, sequential=False).fit(selection))
        for lmbda in (3e-6, 1e-5, 3e-5)
    ]
    assert all(errors)


def test_the_first_layer_has_none_before_it():
    _, _, selection = selected(layers=("conv",))
    one, two = Feedback(1e-5).fit(selection), Feedback(1e-5, sequential=False).fit(selection)
    assert torch.equal(one.tensors["conv.weight"].assignment, two.tensors["conv.weight"].assignment)


def test_the_rate_falls_with_lmbda_and_the_loss_rises():
    _, _, selection = selected()
    paths = [Feedback(lmbda).paths(selection) for lmbda in (1e-6, 1e-5, 1e-4)]
    assert paths[0].bits > paths[1].bits > paths[2].bits
    assert paths[0].loss < paths[1].loss < paths[2].loss


@pytest.mark.parametrize("coding", ["context", "huffman", "fixed"])
def test_pruned_weights_stay_zero(coding):
    _, _, selection = selected(keep=0.2)
    quantized = Feedback(1e-5, coding=coding).fit(selection)
    for tensor in selection:
        values = quantized.tensors[tensor.name].dequantize()
        assert not values[tensor.weight == 0].any()
        assert (quantized.tensors[tensor.name].assignment[tensor.weight.reshape(-1) == 0] == PRUNED).all()


def test_a_bias_has_its_layers_codebook():
    _, _, selection = selected()
    quantized = Feedback(1e-6).fit(selection)
    assert list(quantized.codebooks) == ["conv", "fc1", "fc2"]
    assert quantized.tensors["fc1.bias"].codebook is quantized.codebooks["fc1"].value or torch.equal(
        quantized.tensors["fc1.bias"].codebook, quantized.codebooks["fc1"].value
    )
    step = quantized.codebooks["fc1"].lattice.step
    off = quantized.tensors["fc1.bias"].dequantize() - dict(Network().named_parameters())["fc1.bias"]
    assert float(off.detach().abs().max()) < 12 * step


def test_without_a_calibration_it_is_the_trellis():
    _, _, selection = selected()
    bare = replace(selection, calibration=None)
    found = Feedback(1e-3).fit(bare)
    expected = Trellis(1e-3, coding="context").paths(bare)
    for matrix, tensor in zip(expected.matrices, found.tensors.values(), strict=True):
        assert torch.equal(tensor.dequantize().reshape(-1), (matrix.integers * matrix.step).float().reshape(-1))


def test_a_layer_that_overfits_its_moments_falls_back_to_the_trellis():
    """Held-back inputs in directions that the moments hardly know."""
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 64, generator=g)
    few, other = torch.randn(1, 400, 8, generator=g), torch.randn(1, 100, 64, generator=g)
    inputs = few @ torch.randn(1, 8, 64, generator=g)
    part = Part("l.weight")

    class Known:
        outputs: ClassVar = {"l": torch.ones(64)}
        parts: ClassVar = {"l": part}
        diagonals: ClassVar = {}
        held = other

        def moments(self, layer, changed):
            return LayerMoments((inputs.mT @ inputs / 400,), None, self.outputs["l"], 400, self.held)

    tensor = SelectedTensor("l.weight", "l", weight)

    def fitted(held):
        known = Known()
        known.held = held
        quantizer = Feedback(0.02, sequential=False)
        return quantizer.fit(Selection((tensor,), calibration=known)).dequantize()["l.weight"]

    def loss(found, x):
        return float((x[0] @ (weight - found).T).square().mean())

    fed, alone = fitted(inputs[:, :100]), fitted(other)
    assert loss(fed, inputs) < loss(alone, inputs)
    assert loss(alone, other) < loss(fed, other)


def test_a_plain_tensor():
    weight = torch.randn(30, 20)
    quantized = Feedback(0.01).fit(weight, torch.rand(30, 20))
    assert quantized.rate < 6
    assert quantized.codebooks["weight"].lattice.dependent


def test_layers_without_moments_are_quantized_by_their_sensitivity():
    model, data, _ = selected()
    calibration = nq.calibrate(model, data, progress=False)
    h = {name: torch.full_like(p, 0.1) for name, p in model.named_parameters()}
    known, unknown = nq.select(model, h, calibration=calibration), nq.select(model, calibration=calibration)
    assert {"norm.weight", "norm.bias"} <= {t.name for t in known}
    for selection in (known, unknown):
        quantized = Feedback(1e-6).fit(selection)
        off = quantized.tensors["norm.weight"].dequantize() - model.norm.weight.detach()
        assert 0 <= float(off.abs().max()) < 0.5
    fine = {name: 1e4 * value if name.startswith("norm") else value for name, value in h.items()}
    finer = Feedback(1e-6).fit(nq.select(model, fine, calibration=calibration))
    assert finer.codebooks["norm"].lattice.step < Feedback(1e-6).fit(known).codebooks["norm"].lattice.step


def test_the_same_twice():
    _, _, selection = selected()
    one, two = Feedback(1e-5).fit(selection), Feedback(1e-5).fit(selection)
    assert one.ledger == two.ledger
    assert all(torch.equal(one.tensors[n].assignment, two.tensors[n].assignment) for n in one.tensors)


@pytest.mark.parametrize("keep", [1.0, 0.2])
def test_a_file_of_it(tmp_path, monkeypatch, keep):
    """In blocks of a few rows, in which paths begin anew."""
    monkeypatch.setattr(positions, "BLOCK_ENTRIES", 200)
    model, _, selection = selected(keep)
    quantized = Feedback(1e-6).fit(selection)
    assert len(quantized.tensors["fc1.weight"].streams) == 12
    ledger = nq.save(quantized, tmp_path / "m.nbq", model, progress=False)
    assert {part: ledger[part] for part in quantized.ledger} == dict(quantized.ledger)
    again = nq.load(tmp_path / "m.nbq").quantized()
    assert again.quantizer == quantized.quantizer
    for name, tensor in quantized.tensors.items():
        assert torch.equal(again.tensors[name].dequantize(), tensor.dequantize())


@pytest.mark.parametrize(("name", "value"), [("ratio", 12.0), ("rate", 1.5)])
def test_targets(name, value):
    _, _, selection = selected()
    found = nq.fit(selection, "feedback", progress=False, **{name: value})
    assert Target(name, value).met(found)
    assert Target(name, value).is_close(found, 0.05)
    assert found.quantizer.coding == "context"


def test_unweighted_outputs_count_alike():
    _, _, selection = selected()
    plain = Feedback(1e-5, weighted=False).fit(selection)
    assert not torch.equal(
        plain.tensors["fc2.weight"].assignment, Feedback(1e-5).fit(selection).tensors["fc2.weight"].assignment
    )


def test_a_calibration_of_another_model():
    _, _, selection = selected(layers=("fc2",))
    other = SelectedTensor("fc2.weight", "fc2", torch.randn(4, 7))
    with pytest.raises(
        ValueError, match=r"moments of 4 outputs and 7 inputs are required for 'fc2.weight', but are of 4"
    ):
        Feedback(1e-5).fit(Selection((other,), calibration=selection.calibration))


def test_cancelling():
    _, _, selection = selected()

    def stop(done, total):
        if done == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        Feedback(1e-5).fit(selection, progress=stop)
    with pytest.raises(Cancelled):
        nq.fit(selection, "feedback", ratio=10, progress=lambda done, total: stop(done + 3, total))


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"lmbda": 0.0}, ValueError, "lmbda must be finite and above 0"),
        ({"lmbda": 1.0, "damping": -1.0}, ValueError, "damping must be finite and above 0"),
        ({"lmbda": 1.0, "coding": "x"}, ValueError, "coding must be one of"),
        ({"lmbda": 1.0, "sequential": 1}, TypeError, "sequential must be True or False"),
    ],
)
def test_options_that_cannot_be(options, kind, message):
    with pytest.raises(kind, match=message):
        Feedback(**options)


@pytest.mark.parametrize("shared", [False, True])
def test_a_bias_that_counts_more_than_its_weights_gets_a_finer_step(shared):
    """Inputs that are almost zero leave the outputs to the bias."""

    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(20, 4), nn.Linear(20, 4)

        def forward(self, x):
            return self.a(x) + self.b(x.flip(1))

    torch.manual_seed(0)
    model, data = Heads(), [(1e-4 * torch.randn(300, 20), torch.zeros(300, dtype=torch.int64))]
    calibration = nq.calibrate(model, data, progress=False)
    selection = nq.select(model, calibration=calibration)
    if shared:
        selection = replace(selection, tensors=tuple(replace(t, layer="both") for t in selection))
    found = nq.fit(selection, "feedback", ratio=8, progress=False)
    assert error(model, data, found) < 1e-3 * float(model.a.bias.detach().square().mean())
