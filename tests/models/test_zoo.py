import pytest
import torch
from safetensors.torch import load_file

from nbquant.models import zoo
from nbquant.models.evaluate import evaluate
from nbquant.models.layers import layer_names

# Parameters, non-zero ones, and accuracy on the first 2,000 test images. On all 10,000 the networks have what their
# training noted: 91.95 %, loss 0.2452; 91.55 %, 0.2785; 91.91 %, 0.2246.
EXPECTED = {
    "lenet5-fashion": (431_080, 431_080, 0.9250),
    "lenet5-fashion-pruned": (431_080, 43_410, 0.9215),
    "resnet8-fashion": (75_002, 75_002, 0.9275),
}


def test_names_are_the_three_networks():
    assert zoo.names() == tuple(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_network_is_the_trained_one(name):
    parameters, nonzero, accuracy = EXPECTED[name]
    model, data = zoo.load(name)
    assert not any(module.training for module in model.modules())
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(int(p.count_nonzero()) for p in model.parameters()) == nonzero
    result = evaluate(model, data.test.take(2000), progress=False)
    assert result.samples == 2000
    assert result.accuracy == pytest.approx(accuracy, abs=0.0011)  # two images: another machine rounds otherwise


@pytest.mark.parametrize("name", EXPECTED)
def test_checkpoint_has_exactly_the_networks_entries(name):
    state = load_file(zoo.CHECKPOINTS / f"{name}.safetensors")
    assert state.keys() == zoo.NETWORKS[name]().state_dict().keys()


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
    ("name", "nearest"), [("lenet5", "lenet5-fashion"), ("resnet-8", "resnet8-fashion"), ("", "resnet8-fashion")]
)
def test_unknown_name_gets_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=rf"'{name}' came: did you mean '{nearest}'\?"):
        zoo.load(name)
