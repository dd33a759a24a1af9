"""Plain tensors are refused as those of a model are, before anything is computed from them."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import nbquant as nq
from nbquant.quantization.validate import (
    QUANTIZABLE,
    checked_sensitivity,
    require_finite_weight,
    require_positive_somewhere,
    require_valid_sensitivity,
)

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


CHECKS = [(require_finite_weight, "weights"), (require_valid_sensitivity, "sensitivities")]


@pytest.mark.parametrize(("check", "kind"), CHECKS)
@pytest.mark.parametrize("dtype", QUANTIZABLE)
def test_bad_entries_are_counted_over_all_chunks(monkeypatch, check, kind, dtype):
    monkeypatch.setattr("nbquant.quantization.validate._CHUNK", 7)
    values = torch.ones(5, 6).to(dtype)
    check(values, "w")
    for at, value in ((0, NAN), (8, INF), (15, -INF), (29, NAN)):
        values.view(-1)[at] = value
    with pytest.raises(ValueError, match=rf"{kind} must be finite, but 4 of 30 in 'w' .*2 NaN, 2 infinite"):
        check(values, "w")


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("at", [0, 6, 7, 23])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_one_bad_entry_is_found_wherever_it_is(monkeypatch, value, at, order):
    monkeypatch.setattr("nbquant.quantization.validate._CHUNK", 7)
    values = torch.ones(24)
    values[at] = value
    for tensor in (values.view(2, 3, 4).permute(order), values.view(2, 3, 4)[:, :, None].expand(2, 3, 2, 4)):
        with pytest.raises(ValueError, match="weights must be finite"):
            require_finite_weight(tensor, "w")


def test_negative_entries_are_counted_over_all_chunks(monkeypatch):
    monkeypatch.setattr("nbquant.quantization.validate._CHUNK", 7)
    values = torch.ones(30)
    values[::10] = torch.tensor([-0.25, -3.0, -1.0])
    with pytest.raises(ValueError, match=r"but 3 of 30 entries of 'h' are not \(min -3\)"):
        require_valid_sensitivity(values, "h")
    require_positive_somewhere([torch.zeros(20), (torch.arange(20) == 19).float()])
    with pytest.raises(ValueError, match="all 40 entries are zero"):
        require_positive_somewhere([torch.zeros(20), torch.zeros(20)])


class PeakMemory(TorchDispatchMode):
    """Entries of the largest tensor that an operation makes, other than a view."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, tuple | list) else (result,):
            if isinstance(made, torch.Tensor) and not func.is_view:
                self.largest = max(self.largest, made.numel())
        return result


@pytest.mark.parametrize("bad", [None, NAN, -1.0])
def test_checks_make_no_tensor_of_the_size_of_theirs(bad):
    values = torch.ones(3, 4, 1 << 17).permute(2, 0, 1)
    if bad is not None:
        values[-1, -1, -1] = bad
    with PeakMemory() as memory:
        try:
            checked_sensitivity(values, values, "h")
        except ValueError:
            assert bad is not None
        require_positive_somewhere([values])
    assert memory.largest <= 1 << 20
