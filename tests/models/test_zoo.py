import pytest
import torch
from safetensors.torch import load_file

from nbquant.models import zoo
from nbquant.models.evaluate import evaluate
from nbquant.models.layers import layer_names

# Parameters, non-zero ones, accuracy and loss on the first 2,000 test images, or 500 windows of text.
EXPECTED = {
    "lenet5-fashion": (431_080, 431_080, 0.9250, 0.2283),
    "lenet5-fashion-pruned": (431_080, 43_410, 0.9215, 0.2516),
    "resnet8-fashion": (75_002, 75_002, 0.9275, 0.2052),
    "mobilenet-fashion": (149_354, 149_354, 0.9315, 0.2026),
    "gpt-python": (826_112, 826_112, 0.6869, 1.0638),
}


def test_names_are_the_five_networks():
    assert zoo.names() == tuple(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_network_is_the_trained_one(name):
    parameters, nonzero, accuracy, loss = EXPECTED[name]
    model, data = zoo.load(name)
    assert not any(module.training for module in model.modules())
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(int(p.count_nonzero()) for p in model.parameters()) == nonzero
    samples, labels = (500, 64_000) if name == "gpt-python" else (2000, 2000)
    result = evaluate(model, data.test.take(samples), progress=False)
    assert (result.samples, result.labels) == (samples, labels)
    assert result.accuracy == pytest.approx(accuracy, abs=0.0011)  # two images: another machine rounds otherwise
    assert result.loss == pytest.approx(loss, abs=0.0011)


@pytest.mark.parametrize("name", EXPECTED)
def test_checkpoint_has_every_entry_once(name):
    """A tied weight is stored under its first name."""
    state = load_file(zoo.CHECKPOINTS / f"{name}.safetensors")
    tied = {"head.weight"} if name == "gpt-python" else set()
    assert state.keys() == zoo.NETWORKS[name].make().state_dict().keys() - tied


def test_tied_weights_stay_tied():
    model, _ = zoo.load("gpt-python")
    assert model.head.weight is model.embedding.weight


def test_lenet_layers_are_named_as_in_the_explorer():
    model, _ = zoo.load("lenet5-fashion")
    assert layer_names(model) == ("conv1", "conv2", "fc1", "fc2")


def test_each_load_gives_its_own_model_and_the_same_data():
    (one, data), (two, again) = zoo.load("lenet5-fashion"), zoo.load("lenet5-fashion")
    with torch.no_grad():
        one.fc1.weight.zero_()
    assert two.fc1.weight.any()
    assert data is again


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("lenet5", "lenet5-fashion"), ("resnet-8", "resnet8-fashion"), ("gpt2", "gpt-python"), ("", "resnet8-fashion")],
)
def test_unknown_name_gets_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=rf"'{name}' came: did you mean '{nearest}'\?"):
        zoo.load(name)
