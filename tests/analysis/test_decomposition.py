"""Terms of the loss's change against whole matrices."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import nbquant as nq
from nbquant.analysis.decomposition import decompose, is_off
from nbquant.analysis.prediction import predict_loss
from nbquant.progress import Cancelled


def tiny(activation=nn.Tanh):
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(4, 5), activation(), nn.Linear(5, 3)).double()


def batches_of(sizes=(6, 3)):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(n, 4, generator=generator, dtype=torch.float64), torch.randint(0, 3, (n,), generator=generator))
        for n in sizes
    ]


def matrices(model, batches, loss=functional.cross_entropy):
    """Whole H and G = mean over the batches of JᵀH_zJ, by autograd's Jacobians and Hessians."""
    values = {n: p.detach() for n, p in model.named_parameters()}
    flat, sizes = torch.cat([v.flatten() for v in values.values()]), [v.numel() for v in values.values()]

    def outputs(joined, x):
        parts = {n: p.reshape(v.shape) for (n, v), p in zip(values.items(), joined.split(sizes), strict=True)}
        return torch.func.functional_call(model, parts, (x,))

    h = g = 0.0
    count = sum(len(y) for _, y in batches)
    for x, y in batches:
        share = len(y) / count
        h = h + share * torch.autograd.functional.hessian(lambda f, x=x, y=y: loss(outputs(f, x), y), flat)
        z = outputs(flat, x)
        jacobian = torch.autograd.functional.jacobian(lambda f, x=x: outputs(f, x).flatten(), flat)
        inner = torch.autograd.functional.hessian(lambda s, y=y, z=z: loss(s.reshape(z.shape), y), z.flatten())
        g = g + share * jacobian.T @ inner @ jacobian
    return h, g


def change_of(model, quantized):
    restored = quantized.dequantize()
    return torch.cat([(restored[n] - p.detach()).flatten() for n, p in model.named_parameters()])


def squared(output, target):
    return (output - functional.one_hot(target, 3)).pow(2).mean()


@pytest.mark.parametrize("loss", [functional.cross_entropy, squared])
def test_against_whole_matrices(loss):
    model, batches = tiny(), batches_of()
    quantized = {"coarse": nq.KMeans(3).fit(nq.select(model)), "fine": nq.Uniform(0.05).fit(nq.select(model))}
    rows = decompose(model, quantized, batches, None, loss, progress=False).set_index("label")
    h, g = matrices(model, batches, loss)
    for label, one in quantized.items():
        change = change_of(model, one)
        assert rows.loc[label, "quadratic"] == pytest.approx(float(0.5 * change @ h @ change), rel=1e-9)
        assert rows.loc[label, "gauss_newton"] == pytest.approx(float(0.5 * change @ g @ change), rel=1e-9)
        assert rows.loc[label, "diagonal"] == pytest.approx(float(0.5 * change @ change))
        assert rows.loc[label, "second_order"] == rows.loc[label, "gradient"] + rows.loc[label, "quadratic"]
        assert rows.loc[label, "rate"] == one.rate
    assert rows["samples"].tolist() == [9, 9]


def test_one_layer_is_its_own_gauss_newton():
    model, batches = nn.Linear(4, 3).double(), batches_of()
    found = predict_loss(model, nq.KMeans(3).fit(nq.select(model)), batches, None, gauss_newton=True, progress=False)
    assert found.gauss_newton == pytest.approx(found.quadratic, rel=1e-9)
    assert predict_loss(model, nq.KMeans(3).fit(nq.select(model)), batches, None, progress=False).gauss_newton is None


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.idle = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(2, 2)

    def forward(self, x):
        left = torch.tanh(self.a(x))
        return {"pair": (left, left * self.b(x)), "same": left, "none": x}


def test_nested_outputs():
    torch.manual_seed(1)
    model, batches = Nested().double(), batches_of((5,))

    def loss(output, target):
        left, right = output["pair"]
        return functional.cross_entropy(left + right + output["same"], target)

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            output = self.inner(x)
            return torch.stack([output["pair"][0], output["pair"][1]], 1)

    quantized = nq.KMeans(3).fit(nq.select(model, layers=["a", "b", "idle"]))
    found = predict_loss(model, quantized, batches, None, loss, gauss_newton=True, progress=False)
    _, g = matrices(Sum(), batches, lambda z, y: functional.cross_entropy(2 * z[:, 0] + z[:, 1], y))
    change = change_of(model, quantized)
    assert found.gauss_newton == pytest.approx(float(0.5 * change @ g @ change), rel=1e-9)


@pytest.mark.parametrize("loss", [lambda z, y: z.mean(), lambda z, y: torch.ones((), requires_grad=True) * 2])
def test_a_loss_without_curvature_has_none(loss):
    model, batches = tiny(), batches_of()
    quantized = nq.KMeans(2).fit(nq.select(model))
    found = predict_loss(model, quantized, batches, None, loss, gauss_newton=True, progress=False)
    assert found.gauss_newton == 0


def test_predictions_that_are_off():
    measured = np.array([1.0, 1.0, 1.0, 1.0, -1.0, -1.0, np.nan])
    predicted = np.array([2.0, 0.49, 0.5, -1.0, -1.9, 1.0, 1.0])
    assert is_off(predicted, measured).tolist() == [False, True, False, True, False, True, True]


def test_where_it_breaks_is_marked_and_batches_may_be_an_iterator():
    model, batches = tiny(nn.ReLU), batches_of()
    quantized = [nq.Uniform(step).fit(nq.select(model)) for step in (0.02, 3.0)]
    rows = decompose(model, quantized, iter(batches), None, progress=False)
    assert rows["breaks"].tolist() == [False, True]
    assert rows["label"].str.startswith(("1: Uniform(step=0.02", "2: Uniform(step=3.0")).all()
    with pytest.raises(ValueError, match="at least one quantized"):
        decompose(model, [], batches, None)


def test_cancelled_in_between():
    model, batches = tiny(), batches_of()

    def cancel(done, total):
        if done == 1:
            raise Cancelled

    quantized = [nq.KMeans(2).fit(nq.select(model))] * 3
    model.train()
    with pytest.raises(Cancelled):
        decompose(model, quantized, batches, None, progress=cancel)
    assert model.training
