"""Recurrent layers step by step: the same outputs as torch's own, and moments as a loop over the steps gives them."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_sequence

import nbquant as nq
from nbquant.sensitivity.recurrent import unrolled

KINDS = {
    "LSTM": (nn.LSTM, {}),
    "LSTM with projection": (nn.LSTM, {"proj_size": 2}),
    "GRU": (nn.GRU, {}),
    "tanh": (nn.RNN, {"nonlinearity": "tanh"}),
    "relu": (nn.RNN, {"nonlinearity": "relu"}),
}
CELLS = {
    "LSTM": (nn.LSTMCell, {}),
    "GRU": (nn.GRUCell, {}),
    "tanh": (nn.RNNCell, {}),
    "relu": (nn.RNNCell, {"nonlinearity": "relu"}),
}


def flat(found):
    return list(itertools.chain(*(flat(part) if isinstance(part, tuple) else [part] for part in found)))


def assert_same(layer, *args):
    expected = layer(*args)
    with unrolled(layer):
        assert "forward" in vars(layer)
        found = layer(*args)
    assert "forward" not in vars(layer)
    expected, found = (flat(out if isinstance(out, tuple) else (out,)) for out in (expected, found))
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (1, True), (2, False), (2, True)])
@pytest.mark.parametrize("batched", [True, False])
def test_layers_give_what_they_give_by_themselves(kind, bias, batch_first, layers, bidirectional, batched):
    torch.manual_seed(0)
    made, options = KINDS[kind]
    layer = made(
        3, 4, layers, bias=bias, batch_first=batch_first, bidirectional=bidirectional, dtype=torch.float64, **options
    )
    x = torch.randn(*((2, 5) if batched and batch_first else (5, 2) if batched else (5,)), 3).double()
    assert_same(layer, x)
    shape = (layers * (1 + bidirectional), *((2,) if batched else ()))
    state = torch.randn(*shape, options.get("proj_size", 4)).double()
    assert_same(layer, x, (state, torch.randn(*shape, 4).double()) if made is nn.LSTM else state)


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2,), ()])
def test_cells_give_what_they_give_by_themselves(kind, bias, shape):
    torch.manual_seed(0)
    made, options = CELLS[kind]
    cell = made(3, 4, bias=bias, dtype=torch.float64, **options)
    x, h, c = (torch.randn(*shape, width).double() for width in (3, 4, 4))
    assert_same(cell, x)
    assert_same(cell, x, (h, c) if made is nn.LSTMCell else h)


def test_gradients_are_those_of_the_fused_layer():
    torch.manual_seed(0)
    layer, x = nn.LSTM(3, 4, 2, bidirectional=True, dtype=torch.float64), torch.randn(5, 2, 3).double()
    expected = torch.autograd.grad(layer(x)[0].square().sum(), list(layer.parameters()))
    with unrolled(layer):
        found = torch.autograd.grad(layer(x)[0].square().sum(), list(layer.parameters()))
    assert all(torch.allclose(a, b) for a, b in zip(found, expected, strict=True))


def test_layers_that_compute_otherwise_stay_as_they_are():
    class Own(nn.GRU):
        def forward(self, x):
            return 2 * super().forward(x)[0]

    own, patched = Own(3, 4), nn.GRU(3, 4)
    patched.forward = forward = lambda x: x
    with unrolled(nn.ModuleList([own, patched])):
        assert "forward" not in vars(own)
        assert patched.forward is forward
    assert patched.forward is forward


def test_the_layer_has_its_own_forward_back_after_an_error():
    layer = nn.LSTM(3, 4)
    with pytest.raises(ZeroDivisionError), unrolled(layer):
        raise ZeroDivisionError
    assert "forward" not in vars(layer)
    with pytest.raises(RuntimeError, match="hidden"), unrolled(layer):
        layer(torch.zeros(5, 2, 3), (torch.zeros(1, 2, 5), torch.zeros(1, 2, 4)))
    assert "forward" not in vars(layer)


class Last(nn.Module):
    """The hidden state behind the last step, as class logits."""

    def __init__(self, rec):
        super().__init__()
        self.rec = rec

    def forward(self, x):
        return self.rec(x)[0][:, -1]


def steps_by_hand(kind, w, x):
    """Inputs of both matrices at every step, their products, and the last state, in float64."""
    h = c = torch.zeros(len(x), w["weight_hh_l0"].shape[1], dtype=torch.float64)
    seen, products = ([], []), ([], [])
    for t in range(x.shape[1]):
        for at, now, name in ((0, x[:, t], "ih"), (1, h, "hh")):
            seen[at].append(now.detach())
            products[at].append(now @ w[f"weight_{name}_l0"].T + w[f"bias_{name}_l0"])
        a, b = products[0][-1], products[1][-1]
        n = h.shape[1]
        if kind is nn.LSTM:
            i, f, g, o = ((a + b)[:, k * n : k * n + n] for k in range(4))
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        else:
            r, z = (torch.sigmoid((a + b)[:, k * n : k * n + n]) for k in range(2))
            h = (1 - z) * torch.tanh(a[:, 2 * n :] + r * b[:, 2 * n :]) + z * h
    return seen, products, h


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_moments_and_sensitivities_are_those_of_a_loop(kind):
    torch.manual_seed(0)
    model = Last(kind(3, 4, batch_first=True))
    data = [(torch.randn(6, 5, 3), torch.randn(6, 4)) for _ in range(2)]
    calibration = nq.calibrate(model, data, loss=functional.mse_loss, progress=False)
    assert not calibration.left_out
    assert list(calibration.outputs) == ["rec.weight_ih_l0", "rec.weight_hh_l0"]
    assert [part.bias for part in calibration.parts.values()] == ["rec.bias_ih_l0", "rec.bias_hh_l0"]
    w = {name: p.detach().double().requires_grad_() for name, p in model.rec.named_parameters()}
    x = torch.cat([x for x, _ in data]).double()
    seen, products, h = steps_by_hand(kind, w, x)
    for at, key in enumerate(calibration.outputs):
        inputs = functional.pad(torch.cat(seen[at]), (0, 1), value=1.0)
        assert torch.allclose(calibration.moments(key, {}).inputs[0], inputs.T @ inputs / len(inputs), atol=1e-6)
        # The mean of 4 squared errors has the curvature 2/4 in each of them.
        expected = 0.0
        for k in range(4):
            gradients = torch.autograd.grad(h[:, k].sum(), products[at], retain_graph=True)
            expected = expected + 0.5 * sum(g.square().sum(0) for g in gradients) / len(x)
        many = nq.calibrate(model, data, loss=functional.mse_loss, draws=400, progress=False).outputs[key]
        assert torch.allclose(many, expected, rtol=0.15, atol=0.02 * float(expected.max()))


def test_moments_behind_changed_weights_follow_the_steps():
    torch.manual_seed(0)
    model, data = Last(nn.GRU(3, 4, batch_first=True)), [(torch.randn(30, 5, 3), torch.randint(0, 4, (30,)))]
    calibration = nq.calibrate(model, data, progress=False)
    changed = {"rec.weight_ih_l0": torch.zeros(12, 3)}
    w = {name: p.detach().double() for name, p in model.rec.named_parameters()} | {
        "weight_ih_l0": torch.zeros(12, 3).double()
    }
    seen = torch.cat(steps_by_hand(nn.GRU, w, data[0][0].double())[0][1])
    inputs = functional.pad(seen, (0, 1), value=1.0)
    found = calibration.moments("rec.weight_hh_l0", changed).inputs[0]
    assert torch.allclose(found, inputs.T @ inputs / len(inputs), atol=1e-6)


def test_a_cell_is_seen_at_every_step():
    class Cells(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.LSTMCell(3, 4)

        def forward(self, x):
            state = None
            for now in x.unbind(1):
                state = self.cell(now, state)
            return state[0]

    calibration = nq.calibrate(Cells(), [(torch.randn(6, 5, 3), torch.randint(0, 4, (6,)))], progress=False)
    assert list(calibration.outputs) == ["cell.weight_ih", "cell.weight_hh"]


def test_packed_sequences_are_left_out_and_named():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.rec, self.out = nn.LSTM(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.out(self.rec(pack_sequence(list(x)))[1][0][0])

    with pytest.warns(UserWarning, match="rec.weight_ih_l0"):
        calibration = nq.calibrate(Packed(), [(torch.randn(6, 5, 3), torch.randint(0, 2, (6,)))], progress=False)
    assert list(calibration.left_out) == ["rec.weight_ih_l0", "rec.weight_hh_l0"]


def test_feedback_loses_less_than_the_trellis_on_a_recurrent_network():
    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.rec, self.out = nn.LSTM(24, 24, batch_first=True), nn.Linear(24, 4)

        def forward(self, x):
            return self.out(self.rec(x)[0][:, -1])

    torch.manual_seed(0)
    model, mix = Classifier(), torch.randn(4, 24)
    x, test = (torch.randn(256, 6, 4) @ mix + 0.1 * torch.randn(256, 6, 24) for _ in range(2))
    error = {}
    for seen in (True, False):
        data = [(x, torch.zeros(256).long())]
        selection = nq.select(model, calibration=nq.calibrate(model, data, progress=False) if seen else None)
        found = nq.fit(selection, "feedback", ratio=8, progress=False).apply(model)
        with torch.no_grad():
            error[seen] = float((found(test) - model(test)).square().mean())
    assert error[True] < 0.5 * error[False], error
