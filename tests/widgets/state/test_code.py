"""The lines that are copied give what is shown."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import nbquant as nq
from nbquant.models.batches import Batches
from nbquant.models.dataset import Dataset
from nbquant.widgets.state import ExplorerState
from tests.widgets.samples import WAIT, batches, network, sensitivities


def ready(*args, **inputs):
    state = ExplorerState(*args, **inputs)
    assert state.wait(WAIT)
    assert state.error == ""
    return state


def run(state, **names):
    """What the lines leave behind."""
    space = dict(names)
    exec(compile(state.code(), "code", "exec"), space)
    return space["quantized"]


def same(found, state):
    wanted = state.kept
    assert found.ledger == wanted.ledger
    for name, weight in wanted.dequantize().items():
        torch.testing.assert_close(found.dequantize()[name], weight)
    assert found.quantizer.method == wanted.quantizer.method


@pytest.mark.parametrize(
    "inputs",
    [
        {"ratio": 6.0},
        {"method": "ecsq", "lmbda": 1e-4, "coding": "fixed"},
        {"method": "uniform", "step": 0.05, "weighted": False},
        {"method": "ecsq", "rate": 4.0, "per_layer": True, "layers": ("0", "4")},
        {"levels": 5, "pinned_zero": True},
        {"method": "uniform", "ratio": 7.0, "pinned_zero": True},
    ],
)
def test_given_sensitivities(inputs):
    model = network()
    h = sensitivities(model)
    state = ready(model, batches(), sensitivity=h, damping=0.0, **inputs)
    same(run(state, model=model, data=batches(), sensitivity=h), state)


def test_damped_sensitivities_are_the_same_and_the_fit_meets_the_target():
    model = network()
    for h in (sensitivities(model), nq.sensitivity(model, batches(), progress=False)):
        state = ready(model, batches(), sensitivity=h, damping=0.5, ratio=6.0)
        found = run(state, model=model, sensitivity=h)
        same(found, state)
        assert found.compression_ratio >= 6.0


def test_estimated_sensitivities_of_some_samples():
    torch.manual_seed(3)
    sets = [Batches(torch.randn(40, 20), torch.randint(5, (40,)), 16) for _ in range(3)]
    for data in (Dataset("d", *sets), batches()):
        model = network()
        state = ready(model, data, damping=0.0, ratio=6.0, samples=20, estimator="empirical_fisher")
        assert state.sensitivity.samples == 20
        same(run(state, model=model, data=data), state)


def test_loss_pruning_fine_tuning_and_saving(tmp_path):
    def loss(output, target):
        return 2 * nn.functional.cross_entropy(output, target)

    model = network()
    state = ready(model, batches(), loss=loss, damping=0.0, ratio=12.0, density=0.4)
    state.prune()
    assert state.wait(WAIT)
    state.finetune()
    assert state.wait(WAIT)
    state.save(tmp_path / "m.nbq")
    assert state.wait(WAIT)
    assert state.error == ""
    before = (tmp_path / "m.nbq").read_bytes()
    (tmp_path / "m.nbq").unlink()
    same(run(state, model=model, data=batches(), loss=loss), state)
    assert (tmp_path / "m.nbq").read_bytes() == before


@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_checkpoint(tmp_path, damping):
    torch.manual_seed(0)
    tensors = {"a.weight": torch.randn(60, 30), "b.weight": torch.randn(40, 30)}
    save_file(tensors, tmp_path / "m.safetensors")
    same(run(ready(tmp_path / "m.safetensors", ratio=6.0)), ready(tmp_path / "m.safetensors", ratio=6.0))
    h = {name: torch.rand(t.shape) + 0.01 for name, t in tensors.items()}
    nq.save_sensitivity(h, tmp_path / "h.safetensors")
    folder = tmp_path / "h"
    folder.mkdir()
    save_file(h, folder / "h.safetensors")
    for where in (str(tmp_path / "h.safetensors"), folder):
        state = ready(tmp_path / "m.safetensors", sensitivity=where, ratio=6.0, damping=damping, layers="b")
        same(run(state), state)


@pytest.mark.parametrize("inputs", [{}, {"method": "trellis"}, {"samples": 10}, {"method": "feedback", "rate": 2.0}])
def test_model_without_data(inputs):
    state = ExplorerState(network(), **{"ratio": 6.0} | inputs if "rate" not in inputs else inputs)
    assert state.wait(WAIT)
    names = {"model": network()}
    exec(compile(state.code(), "code", "exec"), names)
    assert names["quantized"].quantizer.method == state.method
    if state.settings.record.curve is not None:  # others find the target by other runs
        same(names["quantized"], state)
