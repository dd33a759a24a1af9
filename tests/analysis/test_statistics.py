"""Statistics: seen before or not, in part, damped."""

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import nbquant as nq
from nbquant.analysis import statistics as module
from nbquant.analysis.recent import Recent
from nbquant.analysis.statistics import Statistics
from nbquant.kernels import dispatch
from nbquant.progress import Cancelled
from nbquant.quantization.selection import Selection
from nbquant.quantization.tensor import SelectedTensor


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 60), nn.Linear(60, 80), nn.Linear(80, 10))


@pytest.fixture
def h(model):
    return {name: torch.rand(p.shape) + 0.1 for name, p in model.named_parameters()}


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(module, "_tensors", Recent(64))
    monkeypatch.setattr(module, "_selections", Recent(4))


@pytest.fixture
def passes(monkeypatch):
    """Names of the tensors that are looked at."""
    seen = []
    real = module.Histogram.of
    monkeypatch.setattr(module.Histogram, "of", lambda w, s, name, progress: (seen.append(name), real(w, s, name))[1])
    return seen


def test_tensors_that_have_not_changed_are_not_looked_at_again(model, h, passes):
    first = Statistics.of(nq.select(model, h))
    assert len(passes) == 6
    assert Statistics.of(nq.select(model, h)) is first
    part = Statistics.of(nq.select(model, h, "1"))
    assert len(passes) == 6
    assert part.tensors[0].histogram is first.tensors[2].histogram


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m[1].weight.data.view(-1)[7].mul_(-1),  # as pruning in place does: no version counts it
        lambda m: m[1].weight.data.mul_(m[1].weight.data.abs() > 0.05),
        lambda m: nn.init.zeros_(m[1].weight),
        lambda m: m[1].load_state_dict(
            {k: v + 1e-7 for k, v in m[1].state_dict().items() if k == "weight"}, strict=False
        ),
    ],
    ids=["one-sign", "pruned", "zeroed", "loaded"],
)
def test_a_tensor_that_changed_is_looked_at_again(model, h, passes, change):
    before = Statistics.of(nq.select(model, h))
    change(model)
    after = Statistics.of(nq.select(model, h))
    assert passes[6:] == ["1.weight"]
    assert after.tensors[2].histogram is not before.tensors[2].histogram


def test_changed_sensitivities_are_looked_at_again(model, h, passes):
    Statistics.of(nq.select(model, h))
    h["1.bias"].data[3] = 9.0
    Statistics.of(nq.select(model, h))
    assert passes[6:] == ["1.bias"]


def test_curves_are_kept_with_the_statistics(model, h):
    statistics = Statistics.of(nq.select(model, h))
    nq.curves(nq.select(model, h), [("uniform", True)])
    assert len(statistics.curves) == 1
    (points,) = statistics.curves.values()
    nq.fit(nq.select(model, h), "uniform", ratio=6)
    assert next(iter(statistics.curves.values())) is points


def test_parts_are_what_their_layers_are_alone(model, h):
    whole = Statistics.of(nq.select(model, h))
    for layers in (["0"], ["0", "2"], ["1", "2"]):
        part, alone = whole.part(layers), Statistics.of(nq.select(model, h, layers))
        assert part.weights == alone.weights
        assert part.histogram.joint.key.tolist() == alone.histogram.joint.key.tolist()
        np.testing.assert_allclose(part.histogram.joint.sums, alone.histogram.joint.sums)


@pytest.mark.parametrize("layers", [None, ["0", "2"]])
def test_damped_statistics_are_those_of_damped_sensitivities(model, h, layers):
    sensitivity = nq.sensitivity(
        model, [(torch.randn(64, 40), torch.randint(10, (64,)))], "gauss_newton", progress=False
    )
    plain = Statistics.of(nq.select(model, sensitivity, layers))
    damped = plain.damped(0.3 * sensitivity.mean)
    anew = Statistics.of(nq.select(model, sensitivity.damped(0.3), layers))
    for per_layer in (False, True):
        a, b = (s.cells(True, False, per_layer) for s in (damped, anew))
        for group, cells in a.items():
            np.testing.assert_allclose(cells.prefix[-1], b[group].prefix[-1], rtol=1e-5, atol=1e-9)
    assert damped.part(["0"]).offset == damped.offset


def test_a_bad_tensor_is_named():
    weight = torch.ones(3, 4)
    weight[1, 2] = torch.nan
    bad = Selection((SelectedTensor("fc.bias", "fc", torch.ones(3)), SelectedTensor("fc.weight", "fc", weight)))
    with pytest.raises(ValueError, match=r"1 of 12 in 'fc.weight' are not"):
        Statistics.of(bad)


def test_cancelling_keeps_what_was_done(model, h, passes, monkeypatch):
    monkeypatch.setattr(module, "PIECE", 5)  # so that all are large, and taken one after the other

    def cancel(done, total):
        if done == 2400 // 5 + 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        Statistics.of(nq.select(model, h), cancel)
    assert passes == ["0.weight", "0.bias"]
    Statistics.of(nq.select(model, h))
    assert passes == list(dict(model.named_parameters()))


def test_small_tensors_that_are_bad_are_named_too(model, h):
    with torch.no_grad():
        model[2].bias[4] = torch.inf
    with pytest.raises(ValueError, match=r"1 of 10 in '2.bias'"):
        Statistics.of(Selection(tuple(SelectedTensor(n, n, p.detach()) for n, p in model.named_parameters())))


def test_sensitivities_of_zero_are_told(tmp_path, model, h):
    nq.save_sensitivity({name: torch.zeros_like(s) for name, s in h.items()}, tmp_path / "h.safetensors")
    safetensors.torch.save_file(dict(model.state_dict()), tmp_path / "model.safetensors")
    selection = nq.select(tmp_path / "model.safetensors", tmp_path / "h.safetensors")
    with pytest.raises(ValueError, match=r"positive somewhere, but all 8150 entries are zero"):
        Statistics.of(selection)


def test_progress_counts_pieces_of_large_tensors(model, h, monkeypatch):
    monkeypatch.setattr(module, "PIECE", 1000)
    monkeypatch.setattr(dispatch, "PIECE", 1000)
    told = []
    Statistics.of(nq.select(model, h), lambda *args: told.append(args))
    assert told == [(i, 12) for i in range(13)]  # 3 + 1 + 5 + 1 + 1 + 1 pieces
    told.clear()
    Statistics.of(nq.select(model, h), lambda *args: told.append(args))
    assert told == [(i, 12) for i in range(13)]
