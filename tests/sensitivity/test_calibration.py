"""Moments of layers, held to inputs and gradients that are looked at one by one."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import pack_sequence
from transformers.pytorch_utils import Conv1D

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


def seen_by_hand(layer, x):
    """What a row of weights is multiplied by at every place, one derivative of the output after the other."""
    found = []
    rows = len(layer.weight)
    for sample in x:
        weight = layer.weight.detach().double().requires_grad_()
        out = functional_call(layer.double(), {"weight": weight}, sample[None].double())[0]
        out = out.reshape(rows, -1) if out.ndim > 1 and not isinstance(layer, nn.Linear) else out.reshape(-1, rows).T
        for place in range(out.shape[1]):
            by_group = [
                torch.autograd.grad(out[g * rows // groups_of(layer), place], weight, retain_graph=True)[0]
                for g in range(groups_of(layer))
            ]
            found.append(torch.stack([d[g * rows // groups_of(layer)].flatten() for g, d in enumerate(by_group)]))
    layer.float()
    return torch.stack(found, 1)


def groups_of(layer):
    return getattr(layer, "groups", 1)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even")
@pytest.mark.parametrize("name", LAYERS)
def test_moments_are_means_over_samples_and_places(name):
    layer, shape = LAYERS[name]
    data = batches(*shape)
    found = nq.calibrate(Flat(layer), data, progress=False).moments("layers.0", {})
    seen = torch.cat([seen_by_hand(layer, x) for x, _ in data], 1)
    if layer.bias is not None:
        seen = functional.pad(seen, (0, 1), value=1.0)
    expected = seen.mT @ seen / seen.shape[1]
    assert torch.allclose(found.inputs, expected, rtol=1e-4, atol=1e-6)
    assert len(found.outputs) == len(layer.weight)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Conv1D(4, 5), (7, 3, 5)),
        (nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), (7, 4, 5)),
        (nn.ConvTranspose2d(3, 2, 2, stride=2), (7, 3, 4, 5)),
    ],
)
def test_moments_where_the_first_axis_is_the_input(layer, shape):
    data = batches(*shape)
    calibration = nq.calibrate(Flat(layer), data, progress=False)
    assert calibration.parts["layers.0"].along
    found = calibration.moments("layers.0", {})
    groups = getattr(layer, "groups", 1)
    x = torch.cat([x for x, _ in data]).double()
    places = x.reshape(-1, 5) if isinstance(layer, Conv1D) else x.flatten(2).transpose(1, 2).flatten(0, 1)
    for g, part in enumerate(places.chunk(groups, 1)):
        assert torch.allclose(found.inputs[g], part.T @ part / len(part), rtol=1e-4, atol=1e-6)
    assert len(found.outputs) == groups * layer.weight[0].numel()


def test_outputs_of_a_transposed_convolution_by_hand():
    """Each tap counts the squared gradients of the pixels that it adds to."""
    layer = nn.ConvTranspose1d(2, 3, 3, stride=2, padding=1)
    x, target = torch.randn(4, 2, 5), torch.randn(4, 27)
    found = nq.calibrate(Flat(layer), [(x, target)], loss=functional.mse_loss, progress=False).outputs["layers.0"]
    expected = torch.zeros(3, 3)
    for place in range(5):
        for tap in range(3):
            pixel = 2 * place - 1 + tap
            expected[:, tap] += (2 / 27) * (0 <= pixel < 9)
    assert torch.allclose(found.float(), expected.flatten(), rtol=1e-5)


def test_a_bilinear_layer_sees_products():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.b = nn.Bilinear(3, 4, 5)

        def forward(self, p, q):
            return self.b(p, q)

    p, q = torch.randn(6, 3), torch.randn(6, 4)
    found = nq.calibrate(Pair(), [((p, q), torch.zeros(6).long())], progress=False).moments("b", {})
    seen = functional.pad((p[:, :, None] * q[:, None]).flatten(1), (0, 1), value=1.0).double()
    assert torch.allclose(found.inputs[0], seen.T @ seen / 6, rtol=1e-5, atol=1e-6)


class Words(nn.Module):
    def __init__(self, tied):
        super().__init__()
        self.table, self.out = nn.Embedding(7, 4, padding_idx=6), nn.Linear(4, 7, bias=False)
        if tied:
            self.out.weight = self.table.weight

    def forward(self, x):
        return self.out(self.table(x).mean(1).tanh())


WORDS = [(torch.tensor([[0, 1, 1], [2, 1, 6]]), torch.tensor([1, 2]))]


def test_a_table_has_a_diagonal_of_counts():
    calibration = nq.calibrate(Words(tied=False), WORDS, progress=False)
    rows, columns = calibration.diagonals["table.weight"]
    assert rows.tolist() == pytest.approx([0.2, 0.6, 0.2, 0, 0, 0, 0])
    assert columns.shape == (4,)
    assert (columns > 0).all()
    assert list(calibration.outputs) == ["out"]
    assert not calibration.left_out
    quantized = nq.Feedback(1e-4).fit(nq.select(Words(tied=False), calibration=calibration))
    assert set(quantized.tensors) == {"table.weight", "out.weight"}


def test_a_tied_table_adds_to_the_moments_of_the_layer():
    model = Words(tied=True)
    tied, apart = (nq.calibrate(m, WORDS, draws=50, progress=False) for m in (model, copy_apart(model)))
    rows, columns = apart.diagonals["table.weight"]
    layer = apart.moments("out", {})
    both = torch.outer(layer.outputs.double(), layer.inputs[0].diagonal()) + torch.outer(rows, columns.double())
    found = tied.moments("table", {})
    product = torch.outer(found.outputs.double(), found.inputs[0].diagonal())
    assert torch.allclose(product.sum(0), both.sum(0), rtol=1e-4)
    assert torch.allclose(product.sum(1), both.sum(1), rtol=1e-4)


def copy_apart(model):
    other = Words(tied=False)
    with torch.no_grad():
        other.table.weight.copy_(model.table.weight)
        other.out.weight.copy_(model.table.weight)
    return other


@pytest.mark.parametrize("sizes", [{}, {"kdim": 3, "vdim": 5}])
def test_projections_of_attention(sizes):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.MultiheadAttention(4, 2, batch_first=True, **sizes)

        def forward(self, q, k, v):
            return self.a(q, k, v)[0]

    q, k, v = torch.randn(6, 3, 4), torch.randn(6, 5, sizes.get("kdim", 4)), torch.randn(6, 5, sizes.get("vdim", 4))
    data = [((q, k, v), torch.randn(6, 3, 4))]
    linear = functional.linear
    calibration = nq.calibrate(Attention(), data, loss=functional.mse_loss, progress=False)
    assert functional.linear is linear
    moments = [x.flatten(0, 1).double() for x in (q, k, v)]
    moments = [x.T @ x / len(x) for x in moments]
    if sizes:
        keys = ["a.q_proj_weight", "a.k_proj_weight", "a.v_proj_weight"]
        found = [calibration.moments(key, {}).inputs[0] for key in keys]
    else:
        found = list(calibration.moments("a.in_proj_weight", {}).inputs[:, :4, :4])
    for one, other in zip(found, moments, strict=True):
        assert torch.allclose(one[: len(other), : len(other)], other, rtol=1e-4, atol=1e-5)
    assert "a.out_proj" in calibration.outputs
    assert not calibration.left_out
    quantized = nq.Feedback(1e-6).fit(nq.select(calibration.model, calibration=calibration))
    assert len({book.lattice.step for book in quantized.codebooks.values()}) == 2


def test_self_attention_has_the_same_inputs_three_times():
    a = nn.MultiheadAttention(4, 2, batch_first=True)

    class Self(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = a

        def forward(self, x):
            return self.a(x, x, x, need_weights=False)[0]

    x = torch.randn(6, 3, 4)
    calibration = nq.calibrate(Self(), [(x, torch.randn(6, 3, 4))], loss=functional.mse_loss, progress=False)
    found = calibration.moments("a.in_proj_weight", {})
    assert torch.equal(found.inputs[0], found.inputs[2])
    assert calibration.parts["a.in_proj_weight"].bias == "a.in_proj_bias"


def test_what_is_left_out_is_named():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.rec, self.experts, self.out = (
                nn.LSTM(5, 4, batch_first=True),
                nn.Parameter(torch.randn(2, 4, 4)),
                nn.Linear(4, 3),
            )

        def forward(self, x):
            packed = pack_sequence(list(x))  # torch's own recurrence runs on it
            return self.out(torch.einsum("nd,edh->nh", self.rec(packed)[1][0][0], self.experts))

    with pytest.warns(
        UserWarning, match=r"3 of 4 weight matrices, \d+% of the weights.*rec.weight_ih_l0 \(LSTM, its inp"
    ):
        calibration = nq.calibrate(Mixed(), batches(4, 3, 5), progress=False)
    assert list(calibration.left_out) == ["experts", "rec.weight_ih_l0", "rec.weight_hh_l0"]
    total = sum(p.numel() for p in calibration.model.parameters())
    assert calibration.left_out_share == pytest.approx((32 + 80 + 64) / total)
    assert "rec.weight_hh_l0" in repr(calibration)
    quantized = nq.Feedback(1e-4).fit(nq.select(calibration.model, calibration=calibration))
    assert len(quantized.tensors) == 7


def test_no_gradient_reaches_a_part_without_it():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(5, 4), nn.Linear(4, 3)

        def forward(self, x):
            with torch.no_grad():
                x = self.a(x)
            return self.b(x)

    with pytest.warns(UserWarning, match=r"a.weight \(Linear, no gradient reaches it\)"):
        calibration = nq.calibrate(Frozen(), batches(4, 5), progress=False)
    assert list(calibration.outputs) == ["b"]


def test_subclasses_and_parametrizations_that_change_nothing():
    class Mine(nn.Linear):
        pass

    class Same(nn.Module):
        def forward(self, w):
            return w * (w != 0)

    data, mine = batches(4, 5), Mine(5, 3)
    found = nq.calibrate(Flat(mine), data, progress=False).moments("layers.0", {})
    masked = nn.Linear(5, 3)
    masked.load_state_dict(mine.state_dict())
    parametrize.register_parametrization(masked, "weight", Same())
    calibration = nq.calibrate(Flat(masked), data, progress=False)
    (key,) = calibration.outputs
    assert calibration.parts[key].weight == "layers.0.parametrizations.weight.original"
    assert torch.allclose(calibration.moments(key, {}).inputs[:, :5, :5], found.inputs[:, :5, :5])
    quantized = nq.Feedback(1e-4).fit(nq.select(Flat(masked), calibration=calibration))
    assert quantized.codebooks


def test_activations_in_place_change_nothing():
    def made(inplace):
        torch.manual_seed(0)
        return Flat(nn.Linear(5, 6), nn.ReLU(inplace), nn.Linear(6, 3))

    one, two = (nq.calibrate(made(inplace), batches(8, 5), progress=False) for inplace in (False, True))
    for key in one.outputs:
        assert torch.equal(one.outputs[key], two.outputs[key])
        assert torch.equal(one.moments(key, {}).inputs, two.moments(key, {}).inputs)


def test_layers_are_quantized_behind_those_before_them():
    torch.manual_seed(0)
    model, data = Flat(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)), batches(16, 5)
    calibration = nq.calibrate(model, data, progress=False)
    other, before = model.layers[0].weight.detach() * 0.5, copy.deepcopy(model.state_dict())
    asked = []

    def choose(key, shift):
        asked.append((key, shift))
        return {"layers.0.weight": other} if key == "layers.0" else {}

    calibration.in_turn(choose, {})
    (first, none), (second, shift) = asked
    assert (first, second) == ("layers.0", "layers.2")
    assert not none.missing.any()
    x = torch.cat([x for x, _ in data])
    was = model.layers[0](x).relu().detach()
    now = functional.linear(x, other, model.layers[0].bias).relu().detach()
    assert torch.allclose(shift.inputs[0], now, atol=1e-6)
    missing = (was - now) @ model.layers[2].weight.detach().T
    assert torch.allclose(shift.missing[0], missing, atol=1e-5)
    assert torch.allclose(shift.mean[0], was.mean(0), atol=1e-5)
    assert torch.allclose(shift.energy[0], was.square().mean(0), atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_error_in_a_choice_leaves_the_model_as_it_was():
    model = Flat(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    calibration = nq.calibrate(model, batches(16, 5), progress=False)
    before = copy.deepcopy(model.state_dict())

    def choose(key, shift):
        if key == "layers.2":
            raise Cancelled
        return {"layers.0.weight": torch.zeros(6, 5)}

    with pytest.raises(Cancelled):
        calibration.in_turn(choose, {})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quantizing_writes_to_no_weight(dtype):
    """Depthwise, and in both dtypes: where a copy may be none."""
    model = Flat(nn.Conv1d(4, 4, 1), nn.ReLU(), nn.Conv1d(4, 4, 3, groups=4), nn.ReLU(), nn.Conv1d(4, 6, 1)).to(dtype)
    data = [(x.to(dtype), y) for x, y in batches(16, 4, 8, classes=6)]
    calibration = nq.calibrate(model, data, progress=False)
    before = copy.deepcopy(model.state_dict())
    selection = nq.select(model, calibration=calibration)
    for _ in range(2):
        nq.Feedback(1e-5).fit(selection)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(t.weight, before[t.name]) for t in selection)


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
    now = functional.pad(functional.linear(x, other, model.layers[0].bias).relu(), (0, 1), value=1.0).detach().double()
    assert torch.allclose(found.inputs[0], now.T @ now / len(x), rtol=1e-5)
    first = calibration.moments("layers.0", {"layers.2.weight": torch.zeros(3, 6)})
    assert torch.allclose(first.inputs, calibration.moments("layers.0", {}).inputs, rtol=1e-5, atol=1e-6)


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


def test_layers_that_share_a_weight_have_the_moments_of_all_their_inputs():
    a, b = nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False)
    b.weight = a.weight
    model, data = Flat(a, b, nn.Linear(5, 3)), batches(4, 5)
    calibration = nq.calibrate(model, data, progress=False)
    assert list(calibration.outputs) == ["layers.0", "layers.2"]
    x = torch.cat([x for x, _ in data])
    seen = torch.cat([x, a(x)]).detach().double()
    assert torch.allclose(calibration.moments("layers.0", {}).inputs[0], seen.T @ seen / len(seen), rtol=1e-5)


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
    with pytest.raises(ValueError, match="must have a weight matrix"):
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


def test_layers_with_fewer_places_than_inputs_are_named():
    model = Flat(nn.Linear(20, 15), nn.ReLU(), nn.Linear(15, 12), nn.ReLU(), nn.Linear(12, 3))
    calibration = nq.calibrate(model, batches(13, 20, count=1), progress=False)
    assert calibration.few_places == {"layers.0": (13, 20), "layers.2": (13, 15)}
    assert "too few for 2 of the layers: layers.0 (13 places for 20 inputs)" in repr(calibration)


def test_places_that_are_held_back_count():
    calibration = nq.calibrate(Flat(nn.Linear(20, 3)), batches(21, 20, count=1), progress=False)
    assert calibration.moments("layers.0", {}).held_back is not None
    assert calibration.few_places == {}


def test_a_parametrization_that_computes_the_weight_is_named_with_advice():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(5, 6))
    with pytest.warns(UserWarning, match=r"original1 \(behind a parametrization: .*remove_parametrizations"):
        nq.calibrate(nn.Sequential(layer, nn.Linear(6, 3)), batches(4, 5), progress=False)
