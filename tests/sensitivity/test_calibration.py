"""Moments of layers, held to inputs and gradients that are looked at one by one."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import nbquant as nq
from nbquant.progress import Cancelled
from nbquant.sensitivity import calibration as module

LAYERS = {
    "linear": (nn.Linear(5, 4), (7, 5)),
    "linear without bias": (nn.Linear(5, 4, bias=False), (7, 5)),
    "sequence": (nn.Linear(5, 4), (7, 3, 5)),
    "conv1d": (nn.Conv1d(3, 4, 3, padding=1), (7, 3, 6)),
    "conv2d": (nn.Conv2d(2, 4, (3, 2), stride=2, padding=1, dilation=(1, 2)), (7, 2, 8, 7)),
    "groups": (nn.Conv2d(4, 6, 3, groups=2), (7, 4, 5, 5)),
    "reflect": (nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect", bias=False), (7, 2, 5, 5)),
    "same": (nn.Conv2d(2, 4, 4, padding="same"), (7, 2, 5, 5)),
    "conv3d": (nn.Conv3d(2, 3, 2), (7, 2, 3, 3, 3)),
}


class Flat(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x).flatten(1)


def batches(*shape, count=3, classes=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(shape, generator=g), torch.randint(0, classes, (shape[0],), generator=g)) for _ in range(count)
    ]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even")
@pytest.mark.parametrize("name", LAYERS)
def test_a_row_times_what_is_unfolded_is_the_output(name):
    layer, shape = LAYERS[name]
    x = torch.randn(shape)
    seen = module.unfolded(layer, x)
    rows = layer.weight.detach().flatten(1)
    if layer.bias is not None:
        rows = torch.cat([rows, layer.bias.detach()[:, None]], 1)
    rows = rows.unflatten(0, (len(seen), -1))
    out = (seen @ rows.transpose(1, 2)).permute(1, 0, 2).flatten(1)  # [places, rows]
    expected = layer(x).detach()
    expected = expected.flatten(0, -2) if isinstance(layer, nn.Linear) else expected.flatten(2).transpose(1, 2)
    assert torch.allclose(out, expected.reshape(out.shape), atol=1e-5)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even")
@pytest.mark.parametrize("name", LAYERS)
def test_moments_are_means_over_samples_and_places(name):
    layer, shape = LAYERS[name]
    data = batches(*shape)
    found = nq.calibrate(Flat(layer), data, progress=False).moments("layers.0", {})
    seen = torch.cat([module.unfolded(layer, x) for x, _ in data], 1).double()
    expected = seen.transpose(1, 2) @ seen / seen.shape[1]
    assert torch.allclose(found.inputs, expected, rtol=1e-5, atol=1e-7)
    assert found.cross is found.inputs or torch.equal(found.cross, found.inputs)
    assert found.bias == (layer.bias is not None)
    assert len(found.outputs) == len(layer.weight)


def test_a_part_of_many_places_is_as_good(monkeypatch):
    layer, data = nn.Conv2d(2, 4, 3), batches(20, 2, 12, 12, count=6)
    whole = nq.calibrate(Flat(layer), data, progress=False).moments("layers.0", {}).inputs
    monkeypatch.setattr(module, "PLACES", 2000)
    monkeypatch.setattr(module, "PLACES_OF_EACH", 1)
    part = nq.calibrate(Flat(layer), data, progress=False).moments("layers.0", {}).inputs
    assert not torch.equal(part, whole)
    assert float((part - whole).norm() / whole.norm()) < 0.2


def test_squared_error_of_a_linear_layer_is_exact():
    """½ Σ s δ G δᵀ is the loss itself, as that is quadratic, with gradients that do not depend on the sample."""
    layer, data = nn.Linear(5, 4), batches(8, 5)
    data = [(x, torch.randn(8, 4)) for x, _ in data]
    found = nq.calibrate(Flat(layer), data, loss=functional.mse_loss, progress=False).moments("layers.0", {})
    best = nn.Linear(5, 4)
    x = torch.cat([torch.cat([x, torch.ones(len(x), 1)], 1) for x, _ in data])
    solution = torch.linalg.lstsq(x, torch.cat([t for _, t in data])).solution.T
    with torch.no_grad():
        best.weight.copy_(solution[:, :-1])
        best.bias.copy_(solution[:, -1])
    off = torch.cat([layer.weight - best.weight, (layer.bias - best.bias)[:, None]], 1).detach().double()
    predicted = 0.5 * float(((off @ found.inputs[0] * off).sum(1) * found.outputs).sum())
    with torch.no_grad():
        measured = sum(functional.mse_loss(layer(x), t) - functional.mse_loss(best(x), t) for x, t in data) / len(data)
    assert predicted == pytest.approx(float(measured), rel=1e-4)


def test_outputs_are_gauss_newton_of_the_bias():
    """A bias has the gradients of its outputs, summed over places; with one place that is s."""
    torch.manual_seed(0)
    model, data = Flat(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)), batches(16, 5)
    found = nq.calibrate(model, data, draws=400, progress=False)
    exact = nq.sensitivity(model, data, method="gauss_newton", progress=False)
    for layer in ("layers.0", "layers.2"):
        assert torch.allclose(found.outputs[layer].float(), exact[f"{layer}.bias"].float(), rtol=0.1)


def test_moments_behind_layers_that_were_changed():
    torch.manual_seed(0)
    model, data = Flat(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)), batches(16, 5)
    calibration = nq.calibrate(model, data, progress=False)
    other = model.layers[0].weight.detach() * 0.5
    found = calibration.moments("layers.2", {"layers.0.weight": other})
    x = torch.cat([x for x, _ in data])
    was = functional.pad(model.layers[0](x).relu(), (0, 1), value=1.0).detach().double()
    now = functional.pad(functional.linear(x, other, model.layers[0].bias).relu(), (0, 1), value=1.0).detach().double()
    assert torch.allclose(found.inputs[0], now.T @ now / len(x), rtol=1e-5)
    assert torch.allclose(found.cross[0], was.T @ now / len(x), rtol=1e-5, atol=1e-6)
    first = calibration.moments("layers.0", {"layers.2.weight": torch.zeros(3, 6)})
    assert torch.allclose(first.cross, first.inputs)


def test_the_model_is_left_as_it_was():
    model, data = Flat(nn.Linear(5, 6), nn.Dropout(0.5), nn.Linear(6, 3)), batches(4, 5)
    model.train()
    before = {name: p.clone() for name, p in model.named_parameters()}
    calibration = nq.calibrate(model, data, progress=False)
    calibration.moments("layers.2", {"layers.0.weight": torch.zeros(6, 5)})
    assert model.training
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())
    assert not model.layers[0]._forward_hooks
    assert not model.layers[2]._forward_pre_hooks


def test_layers_that_share_weights_are_left_out():
    a, b = nn.Linear(5, 5), nn.Linear(5, 5)
    b.weight = a.weight
    model = Flat(a, b, nn.Linear(5, 3))
    assert list(nq.calibrate(model, batches(4, 5), progress=False).outputs) == ["layers.2"]


def test_a_layer_that_is_met_twice():
    layer, last = nn.Linear(5, 5), nn.Linear(5, 3)
    model = Flat(layer, nn.Tanh(), layer, last)
    data = batches(4, 5)
    found = nq.calibrate(model, data, progress=False)
    x = torch.cat([x for x, _ in data])
    seen = torch.cat([x, layer(x).tanh()]).detach().double()
    assert torch.allclose(found.moments("layers.0", {}).inputs[0, :5, :5], seen.T @ seen / len(seen), rtol=1e-5)


def test_in_the_order_of_execution():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Linear(4, 3), nn.Linear(5, 4)

        def forward(self, x):
            return self.last(self.first(x))

    assert list(nq.calibrate(Backwards(), batches(4, 5), progress=False).outputs) == ["first", "last"]


def test_a_model_without_such_layers():
    with pytest.raises(ValueError, match="must have a linear layer or a convolution"):
        nq.calibrate(nn.Sequential(nn.BatchNorm1d(5)), batches(4, 5))


def test_cancelling():
    def stop(done, total):
        if done:
            raise Cancelled

    with pytest.raises(Cancelled):
        nq.calibrate(Flat(nn.Linear(5, 3)), batches(4, 5), progress=stop)


def test_repr_is_short():
    calibration = nq.calibrate(Flat(nn.Linear(5, 3)), batches(4, 5), progress=False)
    assert repr(calibration) == "ModelCalibration(1 layers, 12 samples)"
