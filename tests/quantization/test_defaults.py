import inspect

import pytest
import torch
from torch import nn

import nbquant as nq
from nbquant.analysis.curves import QUANTIZERS, Method
from nbquant.analysis.runs import RUNNERS, runner
from nbquant.cli import commands
from nbquant.quantization.defaults import OPTIONS, defaults_of, options_of
from nbquant.widgets.state import ExplorerState
from tests.widgets.samples import WAIT, batches, network

KINDS = {**QUANTIZERS, **RUNNERS}
LMBDA = {"lmbda": 1e-5}
PARAMETERS = {"kmeans": {"levels": 8}, "uniform": {"step": 0.05}, "ecsq": LMBDA, "trellis": LMBDA, "feedback": LMBDA}


@pytest.fixture(scope="module")
def selection():
    model = network()
    with torch.no_grad():
        model[0].weight *= 0.3
    h = nq.sensitivity(model, batches(), damping=0.1, progress=False)
    return nq.select(model, sensitivity=h, calibration=nq.calibrate(model, batches(), progress=False))


@pytest.mark.parametrize("method", KINDS)
def test_fit_makes_the_quantizer_that_its_class_makes(selection, method):
    by_name = nq.fit(selection, method, progress=False, **PARAMETERS[method]).quantizer
    if method == "kmeans":  # whose levels are the largest number
        by_name = type(by_name)(**vars(by_name) | PARAMETERS[method])
    assert by_name == KINDS[method](**PARAMETERS[method])


@pytest.mark.parametrize("method", RUNNERS)
def test_a_target_is_sought_with_the_same_options(selection, method):
    assert (
        defaults_of(KINDS[method]).items()
        <= vars(nq.fit(selection, method, ratio=8.0, progress=False).quantizer).items()
    )
    assert runner(method)(1e-5) == KINDS[method](1e-5)


@pytest.mark.parametrize("method", QUANTIZERS)
def test_curves_have_the_same_options(method):
    parameter = next(iter(PARAMETERS[method].values()))
    assert Method(method).quantizer(parameter) == KINDS[method](**PARAMETERS[method])


def test_no_default_stands_in_fit_or_in_the_shell():
    asked = inspect.signature(nq.fit).parameters
    assert {name: asked[name].default for name in OPTIONS if name != "offset"} == dict.fromkeys(
        name for name in OPTIONS if name != "offset"
    )
    assert asked["offset"].default is nq.Uniform.offset  # None has a meaning of its own
    shell = {option.name: option for option in commands.commands["quantize"].params}
    assert tuple(shell["method"].type.choices) == tuple(KINDS)
    assert shell["method"].default == asked["method"].default
    left_out = commands.commands["quantize"].make_context("quantize", [__file__, "-o", "m.nbq"]).params
    assert left_out["coding"] is left_out["per_layer"] is None
    assert not left_out["plain"]


@pytest.mark.parametrize("method", KINDS)
def test_the_explorer_begins_with_the_same_options(method):
    state = ExplorerState(network(), batches(), method=method, ratio=6.0)
    usual = defaults_of(KINDS[method])
    assert {name: getattr(state, name) for name in usual if hasattr(state, name)} == {
        name: value for name, value in usual.items() if hasattr(state, name)
    }
    assert state.wait(WAIT)
    assert state.error == ""
    assert state.code().strip().endswith(f"quantized = nq.fit(selection, {method!r}, ratio=6.0)")


def test_what_is_asked_for_in_the_explorer_counts():
    state = ExplorerState(network(), method="trellis", coding="huffman", per_layer=False, ratio=6.0)
    assert (state.coding, state.per_layer) == ("huffman", False)
    assert state.wait(WAIT)
    assert "coding='huffman', per_layer=False" in state.code()


def test_steps_of_each_layer_need_its_codebook():
    assert options_of(nq.Trellis)["steps"] == "equal slope"
    assert options_of(nq.Trellis, per_layer=False)["steps"] == "joint"
    assert options_of(nq.Trellis, per_layer=False, steps="equal slope")["steps"] == "equal slope"
    assert options_of(nq.Feedback, steps="joint", coding=None) == defaults_of(nq.Feedback)


def test_unknown_methods_and_options_of_others_are_refused():
    model = nn.Linear(3, 2)
    with pytest.raises(
        ValueError, match="method must be one of kmeans, uniform, ecsq, trellis, feedback, but got 'gptq'"
    ):
        nq.fit(nq.select(model), "gptq", ratio=4, progress=False)
    with pytest.raises(ValueError, match="pinned_zero is an option of kmeans, but the method is 'trellis'"):
        nq.fit(nq.select(model), "trellis", ratio=4, pinned_zero=True, progress=False)
