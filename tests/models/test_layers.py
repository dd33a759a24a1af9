import pytest
import torch
from torch import nn

from nbquant.models.layers import layer_names, owner, resolve
from nbquant.models.resnet import ResNet8


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Embedding(7, 3)
        self.decoder = nn.Linear(3, 7, bias=False)
        self.decoder.weight = self.encoder.weight
        self.head = nn.Linear(7, 2)


def test_layer_names_are_the_owners_in_order():
    assert layer_names(ResNet8())[:6] == (
        "conv1",
        "bn1",
        "layers.0.conv1",
        "layers.0.bn1",
        "layers.0.conv2",
        "layers.0.bn2",
    )
    assert layer_names(nn.Linear(2, 2)) == ("",)
    assert layer_names(nn.ReLU()) == ()


def test_tied_layer_is_named_once():
    assert layer_names(Tied()) == ("encoder", "head")


def test_attention_owns_parameters_and_has_layers_below():
    assert layer_names(nn.TransformerEncoderLayer(4, 2))[:2] == ("self_attn", "self_attn.out_proj")


def test_owner():
    assert owner("layers.0.conv1.weight") == "layers.0.conv1"
    assert owner("weight") == ""


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("fc", {"fc.weight", "fc.bias"}),
        ("fc.bias", {"fc.bias"}),
        (["conv1", "fc.bias"], {"conv1.weight", "fc.bias"}),
        ("conv*", {"conv1.weight"}),
        ("f[a-d]", {"fc.weight", "fc.bias"}),
        ("layers.?.conv1", {f"layers.{i}.conv1.weight" for i in range(3)}),
        ("*.bn2.bias", {f"layers.{i}.bn2.bias" for i in range(3)}),
    ],
)
def test_names_and_globs(layers, expected):
    assert resolve(ResNet8(), layers)[0] == expected


def test_container_means_all_below_and_not_its_namesakes():
    model = nn.ModuleDict({"stage1": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "stage10": nn.Linear(2, 2)})
    assert resolve(model, "stage1")[0] == {"stage1.0.weight", "stage1.0.bias", "stage1.1.weight", "stage1.1.bias"}
    assert resolve(model, "stage?")[0] == resolve(model, "stage1")[0] == resolve(model, "stage?.*")[0]


def test_modules_and_the_model_itself():
    model = ResNet8()
    assert resolve(model, model.fc)[0] == {"fc.weight", "fc.bias"}
    assert resolve(model, [model.layers[0].conv1, "fc.bias"])[0] == {"layers.0.conv1.weight", "fc.bias"}
    assert resolve(model, model)[0] == resolve(model, None)[0] == {name for name, _ in model.named_parameters()}


def test_case_matters_in_globs():
    with pytest.raises(ValueError, match="no layer or parameter has the pattern 'CONV\\*'"):
        resolve(ResNet8(), "CONV*")


def test_in_person_are_names_not_globs_nor_containers():
    model = ResNet8()
    assert resolve(model, "fc")[1] == {"fc.weight", "fc.bias"}
    assert resolve(model, "conv1.weight")[1] == {"conv1.weight"}
    assert resolve(model, "fc*")[1] == resolve(model, "layers")[1] == resolve(model, None)[1] == set()


@pytest.mark.parametrize(
    ("asked", "advice"),
    [("conv", "did you mean 'conv1'"), ("layers.3", "did you mean 'layers.2'"), ("zzz", "choose from 'conv1', 'bn1'")],
)
def test_unknown_name_gets_the_nearest(asked, advice):
    with pytest.raises(ValueError, match=f"no layer or parameter has the name '{asked}': {advice}"):
        resolve(ResNet8(), asked)


def test_nothing_asked_for():
    with pytest.raises(ValueError, match=r"at least one layer is required, but got layers=\(\): pass None for all, or"):
        resolve(ResNet8(), [])


def test_layer_without_parameters():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with pytest.raises(ValueError, match=r"with parameters is required, but '1' \(ReLU\) has none: choose from '0'"):
        resolve(model, "1")


def test_module_of_another_model():
    with pytest.raises(
        ValueError, match=r"this Linear is none of the modules of this ResNet8 .* one of 'conv1'.* and 7 more"
    ):
        resolve(ResNet8(), ResNet8().fc)


@pytest.mark.parametrize("layers", [3, [3], [torch.zeros(1)]])
def test_other_types(layers):
    with pytest.raises(TypeError, match="layers must be names, globs or modules"):
        resolve(ResNet8(), layers)
