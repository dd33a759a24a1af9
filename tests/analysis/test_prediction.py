"""Predictions of the loss against all second derivatives, finite differences, and what the loss does."""

import weakref
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional

import nbquant as nq
from nbquant.analysis.prediction import predict_loss
from nbquant.progress import Cancelled


def smooth():
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4)).double()


def kinked():
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4)).double()


def batches_of(sizes=(7, 3), seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(sizes), 5, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 4, (sum(sizes),), generator=generator)
    return list(zip(x.split(list(sizes)), y.split(list(sizes)), strict=True))


def total_loss(model, batches, values=None, loss=functional.cross_entropy):
    """Mean loss over all samples, with some parameters replaced."""
    sums = []
    for inputs, target in batches:
        arguments, named = ((), inputs) if isinstance(inputs, dict) else ((inputs,), {})
        output = torch.func.functional_call(model, values or {}, arguments, named)
        sums.append(len(target) * loss(output, target))
    return sum(sums) / sum(len(target) for _, target in batches)


def by_brute_force(model, quantized, batches, loss=functional.cross_entropy):
    """gᵀδ and ½δᵀHδ, from the gradient and the whole Hessian of all quantized weights together."""
    values = {n: p.detach() for n, p in model.named_parameters() if n in quantized.tensors}
    flat = torch.cat([v.flatten() for v in values.values()])
    sizes = [v.numel() for v in values.values()]

    def f(joined):
        parts = {n: x.reshape(v.shape) for (n, v), x in zip(values.items(), joined.split(sizes), strict=True)}
        return total_loss(model, batches, parts, loss)

    restored = quantized.dequantize()
    change = torch.cat([restored[n].flatten() for n in values]) - flat
    slope = torch.autograd.functional.jacobian(f, flat) @ change
    quadratic = 0.5 * change @ torch.autograd.functional.hessian(f, flat) @ change
    measured = f(flat + change) - f(flat)
    return float(slope), float(quadratic), float(measured.detach())


@pytest.mark.parametrize("make", [smooth, kinked])
@pytest.mark.parametrize("layers", [None, ["0"], ["2.weight"]])
def test_derivatives_are_those_of_autograd(make, layers):
    model, batches = make(), batches_of()
    quantized = nq.KMeans(3).fit(nq.select(model, layers=layers))
    found = predict_loss(model, quantized, batches, None, progress=False)
    slope, quadratic, measured = by_brute_force(model, quantized, batches)
    assert found.gradient == pytest.approx(slope, rel=1e-9)
    assert found.quadratic == pytest.approx(quadratic, rel=1e-9)
    assert found.measured == pytest.approx(measured, rel=1e-9)
    assert found.second_order == found.gradient + found.quadratic
    assert found.samples == 10


def test_derivatives_are_finite_differences():
    model, batches = smooth(), batches_of()
    quantized = nq.Uniform(0.3).fit(nq.select(model))
    found = predict_loss(model, quantized, batches, None, progress=False)
    restored, step = quantized.dequantize(), 1e-3

    def at(t):
        values = {n: (1 - t) * p.detach() + t * restored[n] for n, p in model.named_parameters()}
        return float(total_loss(model, batches, values))

    assert found.gradient == pytest.approx((at(step) - at(-step)) / (2 * step), rel=1e-4)
    assert found.quadratic == pytest.approx((at(step) - 2 * at(0) + at(-step)) / (2 * step**2), rel=1e-4)
    assert found.measured == pytest.approx(at(1) - at(0))


@pytest.mark.parametrize("levels", [8, 16, 32])
def test_small_changes_are_foreseen(levels):
    model, batches = smooth(), batches_of()
    quantized = nq.KMeans(levels, per_layer=True).fit(nq.select(model))
    found = predict_loss(model, quantized, batches, None, progress=False)
    restored = quantized.dequantize()
    size = sum(float(((restored[n] - p.detach()) ** 2).sum()) for n, p in model.named_parameters())
    assert abs(found.second_order - found.measured) < size**1.5


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(5, 4), nn.Linear(5, 4)

    def forward(self, a, b):
        return {"logits": torch.tanh(self.left(a)) * self.right(b)}


def test_inputs_by_name_and_a_loss_of_ones_own():
    torch.manual_seed(2)
    model = Named().double()
    batches = [({"a": x, "b": x.flip(1)}, torch.randn(len(x), 4, dtype=torch.float64)) for x, _ in batches_of((4, 9))]

    def loss(output, target):
        return (output["logits"] - target).pow(4).mean()

    quantized = nq.KMeans(4).fit(nq.select(model))
    found = predict_loss(model, quantized, batches, None, loss, progress=False)
    expected = by_brute_force(model, quantized, batches, loss)
    assert (found.gradient, found.quadratic, found.measured) == pytest.approx(expected, rel=1e-9)


def test_diagonal_is_of_the_sensitivities_as_they_are():
    model, batches = kinked(), batches_of()
    h = nq.sensitivity(model, batches, "exact", damping=0.3, progress=False)
    quantized = nq.KMeans(3).fit(nq.select(model, h))
    found = predict_loss(model, quantized, batches, h, progress=False)
    assert found.diagonal == pytest.approx(quantized.predicted_loss_increase)
    plain = predict_loss(model, quantized, batches, None, progress=False)
    errors = (float(((v - model.get_parameter(n).detach()) ** 2).sum()) for n, v in quantized.dequantize().items())
    assert plain.diagonal == pytest.approx(0.5 * sum(errors))
    assert (plain.gradient, plain.quadratic) == (found.gradient, found.quadratic)


def test_where_the_hessian_is_diagonal_it_is_all_of_the_quadratic():
    """One input each, squared error: no weight knows of another."""
    weight = nn.Linear(6, 1, bias=False).double()
    batches = [(torch.eye(6, dtype=torch.float64), torch.zeros(6, 1, dtype=torch.float64))]
    h = nq.sensitivity(weight, batches, loss=functional.mse_loss, progress=False)
    quantized = nq.KMeans(2).fit(nq.select(weight, h))
    found = predict_loss(weight, quantized, batches, h, functional.mse_loss, progress=False)
    assert found.quadratic == pytest.approx(found.diagonal)
    assert found.measured == pytest.approx(found.second_order)


def test_a_loss_that_is_linear_has_no_quadratic():
    model, batches = nn.Linear(5, 4), [(x.float(), y) for x, y in batches_of()]
    quantized = nq.KMeans(3).fit(nq.select(model))
    found = predict_loss(model, quantized, batches, None, lambda output, target: output.mean(), progress=False)
    assert found.quadratic == 0
    assert found.measured == pytest.approx(found.gradient, abs=1e-6)


def test_tied_parameters_count_once():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    model[2].weight = model[0].weight
    batches = batches_of()
    quantized = nq.KMeans(3).fit(nq.select(model))
    found = predict_loss(model, quantized, batches, None, progress=False)
    expected = by_brute_force(model, quantized, batches)
    assert (found.gradient, found.quadratic, found.measured) == pytest.approx(expected, rel=1e-9)


def test_a_model_in_use_is_left_as_it_was():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 4)).train()
    model[1].eval()
    model[4].weight.requires_grad_(False)
    before = {n: v.clone() for n, v in model.state_dict().items()}
    random = torch.get_rng_state()
    batches = [(x.float(), y) for x, y in batches_of()]
    quantized = nq.KMeans(3).fit(nq.select(model))
    first = predict_loss(model, quantized, batches, None, progress=False)
    assert predict_loss(model, quantized, iter(batches), None, progress=False) == first  # dropout is off
    assert [m.training for m in model] == [True, False, True, True, True]
    assert [p.requires_grad for p in model.parameters()] == [True, True, True, True, False, True]
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrower_types_agree_with_float64(dtype):
    model, batches = smooth(), batches_of((40, 20))
    narrow = smooth().to(dtype)
    model.load_state_dict(narrow.state_dict())
    quantized = nq.KMeans(4).fit(nq.select(narrow))
    wide_quantized = nq.KMeans(4).fit(nq.select(model))
    found = predict_loss(narrow, quantized, batches, None, progress=False)
    right = predict_loss(model, wide_quantized, batches, None, progress=False)
    rel = 1e-3 if dtype == torch.float32 else 0.15
    assert found.quadratic == pytest.approx(right.quadratic, rel=rel)
    assert found.diagonal == pytest.approx(right.diagonal, rel=rel)


def test_one_graph_at_a_time():
    """A hook on the output lives as long as the graph does."""
    model, batches, alive, most = kinked(), batches_of((5, 5, 5, 5)), [], []

    class Hook:
        def __call__(self, gradient):
            return None

    def loss(output, target):
        if output.requires_grad:
            most.append(sum(ref() is not None for ref in alive))
            hook = Hook()
            output.register_hook(hook)
            alive.append(weakref.ref(hook))
        return functional.cross_entropy(output, target)

    predict_loss(model, nq.KMeans(3).fit(nq.select(model)), batches, None, loss, progress=False)
    assert len(alive) == 4
    assert most == [0, 0, 0, 0]


def test_progress_and_cancelling():
    model, batches, told = kinked(), batches_of((5, 5, 5)), []
    quantized = nq.KMeans(3).fit(nq.select(model))
    predict_loss(model, quantized, batches, None, progress=lambda done, total: told.append((done, total)))
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]

    def cancel(done, total):
        if done == 1:
            raise Cancelled

    model.train()
    with pytest.raises(Cancelled):
        predict_loss(model, quantized, batches, None, progress=cancel)
    assert model.training


def test_what_does_not_fit_is_refused():
    model, batches = kinked(), batches_of()
    quantized = nq.KMeans(3).fit(nq.select(model))
    h = {n: torch.ones_like(p) for n, p in model.named_parameters()}
    with pytest.raises(ValueError, match=r"shape \(6, 5\) for '0\.weight', but it is missing"):
        predict_loss(model, quantized, batches, {n: x for n, x in h.items() if n != "0.weight"})
    with pytest.raises(ValueError, match=r"shape \(6,\) for '0\.bias', but it has the shape \(1,\)"):
        predict_loss(model, quantized, batches, h | {"0.bias": torch.ones(1)})
    with pytest.raises(ValueError, match="the model must have the parameter"):
        predict_loss(nn.Linear(5, 4), quantized, batches, None)
    with pytest.raises(ValueError, match="at least one batch"):
        predict_loss(model, quantized, [], None)
    with pytest.raises(ValueError, match='use reduction="mean"'):
        predict_loss(model, quantized, batches, None, nn.CrossEntropyLoss(reduction="sum"))


def test_on_lenet_the_diagonal_misses_what_errors_do_together():
    """At high ratios ECSQ's errors point the same way: the full quadratic and the loss itself are far above ½Σhδ²."""
    model, data = nq.zoo.load("lenet5-fashion")
    batches = data.calibration.take(300)
    h = nq.sensitivity(model, batches, "gauss_newton_sampled", progress=False)
    selection = nq.select(model, h)
    found = [
        predict_loss(model, nq.fit(selection, ratio=ratio, progress=False), batches, h, progress=False)
        for ratio in (18.4, 12.0, 8.0)
    ]
    assert found[0].diagonal < found[0].quadratic < found[0].second_order < found[0].measured
    for coarse, fine in pairwise(found):
        assert fine.diagonal < coarse.diagonal
        assert abs(fine.measured - fine.second_order) < abs(coarse.measured - coarse.second_order)
