"""Plain tensors are refused as those of a model are, before anything is computed from them."""

import numpy as np
import pytest
import torch

import nbquant as nq

QUANTIZERS = [nq.KMeans(levels=3), nq.Uniform(step=0.5), nq.ECSQ(lmbda=0.01)]
NAN, INF = float("nan"), float("inf")
WEIGHT = torch.linspace(-1, 1, 12)


def with_first(values, *first):
    values = values.clone()
    values[: len(first)] = torch.tensor(first, dtype=values.dtype)
    return values


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=lambda q: q.method)
@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        (
            with_first(WEIGHT, NAN),
            ValueError,
            r"weights must be finite, but 1 of 12 in 'weight' are not \(1 NaN, 0 inf",
        ),
        (with_first(WEIGHT, INF, -INF, NAN), ValueError, r"3 of 12 in 'weight' are not \(1 NaN, 2 infinite\): repair"),
        (torch.zeros(0), ValueError, r"at least one entry, but has the shape \(0,\)"),
        (torch.zeros(3, 0), ValueError, r"shape \(3, 0\)"),
        (torch.arange(5), TypeError, r"float32, bfloat16, float16, float64, but is a torch.int64 tensor"),
        (torch.ones(3).to(torch.complex64), TypeError, r"is a torch.complex64 tensor"),
        (torch.ones(3).to(torch.float8_e5m2), TypeError, r"is a torch.float8_e5m2 tensor"),
        ([0.5, 1.0], TypeError, r"is a list: convert it"),
        (np.ones(3), TypeError, r"is a ndarray"),
    ],
)
def test_bad_weights(quantizer, weight, error, message):
    with pytest.raises(error, match=message):
        quantizer.fit(weight)


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=lambda q: q.method)
@pytest.mark.parametrize(
    ("sensitivity", "error", "message"),
    [
        (with_first(torch.ones(12), NAN, NAN), ValueError, r"sensitivities must be finite, but 2 of 12 .*2 NaN"),
        (with_first(torch.ones(12), INF), ValueError, r"1 of 12 .*1 infinite"),
        (with_first(torch.ones(12), -0.5), ValueError, r"non-negative, but 1 of 12 entries .*min -0\.5.*clamp"),
        (torch.ones(11), ValueError, r"shape \(12,\), but has \(11,\)"),
        (torch.ones(3, 4), ValueError, r"shape \(12,\), but has \(3, 4\)"),
        (torch.zeros(12), ValueError, "positive somewhere, but all 12 entries are zero"),
        (-torch.zeros(12), ValueError, "positive somewhere, but all 12 entries are zero"),
        (torch.ones(12, dtype=torch.int32), TypeError, "is a torch.int32 tensor"),
        ([1.0] * 12, TypeError, "is a list"),
    ],
)
def test_bad_sensitivities(quantizer, sensitivity, error, message):
    with pytest.raises(error, match=message):
        quantizer.fit(WEIGHT, sensitivity)


def test_a_graph_is_left_behind():
    weight = WEIGHT.clone().requires_grad_()
    q = nq.KMeans(levels=3).fit(weight, torch.ones(12, requires_grad=True))
    assert not q.codebook.requires_grad


def test_a_layer_without_sensitivity_is_allowed_beside_one_with_it():
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    h = {name: torch.ones_like(p) * name.startswith("0") for name, p in model.named_parameters()}
    selection = nq.select(model, h)
    for quantizer in (nq.KMeans(2, per_layer=True), nq.Uniform(0.3, per_layer=True), nq.ECSQ(1e-3, per_layer=True)):
        q = quantizer.fit(selection)
        assert all(book.value.isfinite().all() for book in q.codebooks.values())
        values = q.dequantize()
        errors = [(p.detach() - values[name]).square().sum() for name, p in model[0].named_parameters("0")]
        assert q.distortion == pytest.approx(0.5 * float(sum(errors)) / len(q))
    # Equal mass: centres of the layer without sensitivity are plain means.
    tensors = [q.tensors[name] for name in ("1.weight", "1.bias")]
    assignment = torch.cat([t.assignment for t in tensors]).long()
    weights = torch.cat([p.detach().reshape(-1) for p in model[1].parameters()])
    for j, centre in enumerate(q.codebooks["1"].value):
        assert float(centre) == pytest.approx(float(weights[assignment == j].mean()), rel=1e-5)
