import inspect

import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from torch import nn

import nbquant as nq
from nbquant.cli import commands
from nbquant.cli.quantize import quantize
from nbquant.quantization import methods
from nbquant.quantization.methods import METHODS, family
from nbquant.widgets.state import ExplorerState
from tests.widgets.samples import WAIT, batches, network

LMBDA = {"lmbda": 1e-5}
PARAMETERS = {method.name: LMBDA for method in METHODS} | {"kmeans": {"levels": 8}, "uniform": {"step": 0.05}}


@pytest.fixture(scope="module")
def selection():
    model = network()
    with torch.no_grad():
        model[0].weight *= 0.3
    h = nq.sensitivity(model, batches(), damping=0.1, progress=False)
    return nq.select(model, sensitivity=h, calibration=nq.calibrate(model, batches(), progress=False))


EVERY = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


@EVERY
def test_fit_makes_the_quantizer_that_its_class_makes(selection, method):
    by_name = nq.fit(selection, method.name, progress=False, **PARAMETERS[method.name]).quantizer
    if method.parameter.whole:  # whose levels are the largest number
        by_name = type(by_name)(**vars(by_name) | PARAMETERS[method.name])
    assert by_name == method.make(**PARAMETERS[method.name])


@pytest.mark.parametrize("method", [m for m in METHODS if m.curve is None], ids=lambda method: method.name)
def test_a_target_is_sought_with_the_same_options(selection, method):
    found = nq.fit(selection, method.name, ratio=8.0, progress=False).quantizer
    assert method.options.items() <= vars(found).items()


@EVERY
def test_families_have_the_same_options(method):
    parameter = next(iter(PARAMETERS[method.name].values()))
    assert family(method.name)(parameter) == method.make(**PARAMETERS[method.name])
    made = method.make(**PARAMETERS[method.name])
    assert methods.family_of(made)(parameter) == made
    assert methods.of(made) is method


@EVERY
def test_a_method_is_asked_for_by_name_by_class_or_as_a_quantizer(selection, method):
    target = {"ratio": 6.0}
    by_name = nq.fit(selection, method.name, coding="arithmetic", progress=False, **target)
    by_class = nq.fit(selection, method.make, coding="arithmetic", progress=False, **target)
    assert by_name.quantizer == by_class.quantizer
    assert by_name.ledger == by_class.ledger
    as_it_is = nq.fit(selection, by_name.quantizer, progress=False)
    assert as_it_is.quantizer == by_name.quantizer
    assert as_it_is.compression_ratio == pytest.approx(by_name.compression_ratio, rel=0.05)


def test_a_quantizer_has_its_target_and_options_already(selection):
    with pytest.raises(ValueError, match="its target and options, but got ratio, coding as well"):
        nq.fit(selection, nq.ECSQ(1e-6), ratio=15, coding="fixed")


def test_an_unknown_option_is_named_with_the_nearest(selection):
    with pytest.raises(TypeError, match=r"options of ecsq are .*, but got 'codng': did you mean 'coding'"):
        nq.fit(selection, "ecsq", ratio=15, codng="fixed")
    with pytest.raises(ValueError, match="per_layer of feedback is always True"):
        nq.fit(selection, "feedback", ratio=15, per_layer=False)
    with pytest.raises(ValueError, match="got 'fedback': did you mean 'feedback'"):
        nq.fit(selection, "fedback", ratio=15)
    with pytest.raises(ValueError, match="coding must be one of"):
        nq.fit(selection, "ecsq", ratio=15, coding="morse")


def test_the_step_of_a_trellis_is_an_option(selection):
    found = nq.fit(selection, nq.Trellis, lmbda=1e-5, step=0.01, progress=False)
    assert found.quantizer == nq.Trellis(1e-5, step=0.01)


def test_no_default_stands_in_fit_or_in_the_shell():
    asked = inspect.signature(nq.fit).parameters
    assert not asked.keys() & {"weighted", "coding", "per_layer", "pinned_zero", "offset", "steps"}
    shell = {option.name: option for option in quantize.params}
    assert tuple(shell["method"].type.choices) == methods.names()
    assert shell["method"].default == asked["method"].default
    left_out = quantize.make_context("quantize", [__file__, "-o", "m.nbq"]).params
    assert left_out["coding"] is left_out["per_layer"] is None
    assert not left_out["plain"]


@pytest.mark.parametrize("method", methods.names())
def test_the_explorer_begins_with_the_same_options(method):
    state = ExplorerState(network(), batches(), method=method, ratio=6.0)
    usual = methods.named(method).options
    settings = vars(state.settings)
    assert {name: settings[name] for name in usual if name in settings} == {
        name: value for name, value in usual.items() if name in settings
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
    assert family("trellis").steps == "equal slope"
    assert family("trellis", per_layer=False).steps == "joint"
    assert family("trellis", per_layer=False, steps="equal slope").steps == "equal slope"
    assert family("feedback", coding=None) == family("feedback")


def test_unknown_methods_and_options_of_others_are_refused():
    model = nn.Linear(3, 2)
    with pytest.raises(
        ValueError, match=r"method must be one of kmeans, uniform, .*, or a block format such as nf4 .*, but got 'gptq'"
    ):
        nq.fit(nq.select(model), "gptq", ratio=4, progress=False)
    with pytest.raises(ValueError, match="pinned_zero is an option of kmeans, but the method is 'trellis'"):
        nq.fit(nq.select(model), "trellis", ratio=4, pinned_zero=True, progress=False)


@pytest.mark.parametrize("method", [None, 5, nn.Linear(2, 2), dict, type("Mine", (nq.KMeans,), {})])
def test_what_is_no_method_is_refused(selection, method):
    with pytest.raises(TypeError, match=r"method must be a name, .* one of the classes KMeans, Uniform, .* but got"):
        nq.fit(selection, method, ratio=8)


@pytest.mark.parametrize(("name", "value"), [("steps", "equal slope"), ("damping", 0.01), ("sequential", True)])
def test_an_option_of_others_is_refused_even_at_its_default(selection, name, value):
    with pytest.raises(ValueError, match=f"{name} is an option of .*, but the method is 'kmeans'"):
        nq.fit(selection, "kmeans", ratio=8, **{name: value})


def test_a_misspelt_target_is_named(selection):
    with pytest.raises(TypeError, match="but got 'raito'"):
        nq.fit(selection, "ecsq", raito=8)
    with pytest.raises(TypeError, match=r"options of kmeans are .*, but got 'clusters'"):
        nq.fit(selection, "kmeans", clusters=1, ratio=8)


def test_more_levels_than_the_curve_has_points():
    weight = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    selection = nq.select(nn.Linear(100, 200))
    assert nq.fit(selection, "kmeans", levels=300, progress=False).levels == 300
    assert nq.KMeans(300).fit(weight).levels == 300


def test_curves_and_pictures_take_names(selection):
    by_name = nq.curves(selection, ["kmeans"], progress=False)
    assert by_name.equals(nq.curves(selection, [("kmeans", True)], progress=False))
    assert set(nq.curves(selection, "uniform", steps="equal slope", per_layer=True, progress=False)["method"]) == {
        "uniform"
    }
    assert len(nq.curves(selection, pinned_zero=True, progress=False)["method"].unique()) == 3
    with pytest.raises(TypeError, match="methods must be names, or pairs"):
        nq.curves(selection, [nq.KMeans])
    with pytest.raises(ValueError, match="a method with a curve from histograms is required, but got 'trellis'"):
        nq.plot.rate_distortion(selection, ["trellis"], progress=False)
    with pytest.raises(TypeError, match="fitted must map labels"):
        nq.plot.rate_distortion(selection, fitted=nq.KMeans(2).fit(torch.randn(9)), progress=False)


@pytest.mark.parametrize(
    "options",
    [
        "--option foo=1",
        "--option =1",
        "--option pinned_zero=maybe",
        "--method uniform --option offset=x",
        "--levels 3 --ratio 2",
    ],
)
def test_the_shell_refuses_options_without_a_traceback(tmp_path, options):
    safetensors.torch.save_file({"w": torch.randn(20, 30)}, tmp_path / "m.safetensors")
    arguments = ["quantize", str(tmp_path / "m.safetensors"), "-o", str(tmp_path / "m.nbq"), "--method", "kmeans"]
    done = CliRunner().invoke(
        commands, [*arguments, *options.split(), *([] if "--ratio" in options else ["--ratio", "5"])]
    )
    assert done.exit_code == 2, done.output
    assert not (tmp_path / "m.nbq").exists()


def test_the_shell_takes_the_step_of_a_trellis(tmp_path):
    safetensors.torch.save_file({"w": torch.randn(20, 30)}, tmp_path / "m.safetensors")
    arguments = ["quantize", str(tmp_path / "m.safetensors"), "-o", str(tmp_path / "m.nbq"), "--method", "trellis"]
    done = CliRunner().invoke(commands, [*arguments, "--lmbda", "1e-4", "--option", "step=0.1"])
    assert done.exit_code == 0, done.output
    assert nq.load(tmp_path / "m.nbq").quantized().quantizer == nq.Trellis(1e-4, step=0.1)


def test_a_selection_is_shown_in_a_line(selection):
    assert repr(selection).count("\n") == 0
    assert "calibrated" in repr(selection)
