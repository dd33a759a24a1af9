import pytest
import torch
from torch import nn

from nbquant.substitute import call_with

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


def shared():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.Tanh(), layer)


def tied():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    return model


@pytest.mark.parametrize("make", [shared, tied])
@pytest.mark.parametrize("name", ["0.weight", "2.weight"])
def test_all_places_of_a_parameter_have_the_value_and_get_it_back(make, name):
    model = make()
    before = dict(model.named_parameters(remove_duplicate=False))
    value = torch.eye(4)
    expected = torch.tanh(X + before["0.bias"]) + before["2.bias"]
    torch.testing.assert_close(call_with(model, {name: value}, (X,)), expected)
    after = dict(model.named_parameters(remove_duplicate=False))
    assert all(after[key] is parameter for key, parameter in before.items())


def test_the_model_is_as_it_was_after_an_error():
    model = shared()
    before = dict(model.named_parameters(remove_duplicate=False))
    with pytest.raises(RuntimeError, match="shape"):
        call_with(model, {"0.weight": torch.eye(4)}, (torch.zeros(5, 3),))
    assert all(after is before[name] for name, after in model.named_parameters(remove_duplicate=False))


def test_arguments_go_in_by_name():
    assert call_with(nn.Linear(4, 2, bias=False), {"weight": torch.ones(2, 4)}, (), {"input": X}).shape == (5, 2)
