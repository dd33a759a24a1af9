import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import nbquant as nq
from nbquant.widgets.state import ExplorerState

X, Y = torch.randn(9, 6, generator=torch.Generator().manual_seed(3)), torch.arange(9) % 3


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))


def masked():
    model = net()
    prune.l1_unstructured(model[0], "weight", 0.5)
    return model


def old(norm):
    model = net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        norm(model[0])
    return model


@pytest.mark.parametrize(
    "verb",
    [
        lambda m: nq.select(m),
        lambda m: nq.select(m, layers="0.weight_orig"),
        lambda m: nq.prune(m, 0.5, progress=False),
        lambda m: nq.calibrate(m, [(X, Y)], progress=False),
        lambda m: ExplorerState(m, [(X, Y)]),
    ],
)
def test_masked_weights_are_refused_with_what_to_do(verb):
    with pytest.raises(ValueError, match=r"module '0' .* torch\.nn\.utils\.prune\.remove\(model\.get_submodule\('0'\)"):
        verb(masked())


def test_other_layers_of_a_masked_model_are_quantized():
    model = masked()
    quantized = nq.fit(nq.select(model, layers="2"), "kmeans", levels=2, progress=False)
    assert quantized.apply(model)(X).shape == (9, 3)
    assert nq.prune(model, 0.5, layers="2", progress=False).density == 0.5


def test_the_advice_helps():
    model = masked()
    output = model(X)
    prune.remove(model[0], "weight")
    assert torch.equal(model(X), output)
    assert len(nq.select(model)) == 43


@pytest.mark.parametrize(
    ("norm", "remove"),
    [(nn.utils.weight_norm, "remove_weight_norm"), (nn.utils.spectral_norm, "remove_spectral_norm")],
)
def test_older_norms_are_quantized_but_not_calibrated(norm, remove):
    model = old(norm)
    quantized = nq.fit(nq.select(model), "kmeans", levels=4, progress=False)
    applied = quantized.apply(model).eval()
    applied(X)
    fresh = old(norm).eval()
    fresh.load_state_dict(applied.state_dict())
    assert torch.equal(applied(X), fresh(X))
    with pytest.raises(ValueError, match=rf"'weight' of module '0' .*{remove}\("):
        nq.calibrate(model, [(X, Y)], progress=False)


def test_a_model_that_is_one_masked_layer_is_named_as_itself():
    layer = prune.random_unstructured(nn.Linear(6, 3), "weight", 0.5)
    with pytest.raises(ValueError, match=r"the model itself .*prune\.remove\(model, 'weight'\)"):
        nq.select(layer)
