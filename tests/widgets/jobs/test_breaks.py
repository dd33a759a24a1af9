"""What breaks: flips of the result at the target, as pictures or numbers, and filters."""

import numpy as np
import torch
from torch import nn

from nbquant.widgets.state import ExplorerState
from nbquant.widgets.view.breaking import breaking, picture_of
from tests.widgets.samples import WAIT, batches, sensitivities, two_layers


def images(count=200):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    x = torch.randn(count, 1, 8, 8)
    return model, [(x, model(x).argmax(1))]


def explored(model, data, **inputs):
    state = ExplorerState(model, data, sensitivity=sensitivities(model), measure_at_rest=False, **inputs)
    assert state.wait(WAIT)
    state.find_breaks()
    assert state.wait(WAIT)
    assert state.error == ""
    return state


def test_flips_of_the_result_are_found_and_forgotten_with_it():
    model, data = images()
    state = explored(model, data, method="kmeans", levels=3)
    found = state.breaks
    applied = state.exact.apply(model)
    flipped = applied(data[0][0]).argmax(1) != data[0][1]
    assert found.flips.count == {"broken": int(flipped.sum()), "mended": 0, "other": 0}
    assert int(flipped.sum()) > 5
    shown = breaking(found)
    assert shown["summary"].startswith(f"Of 200 answers {int(flipped.sum())} broke, 0 were mended")
    assert shown["flips"][0]["picture"]["width"] == 8
    state.drive("levels", 8)
    assert state.breaks is None
    assert breaking(None) == {}


def test_filters_are_those_before_and_after():
    model, data = images(20)
    state = explored(model, data, method="kmeans", levels=4)
    filters = state.breaks.filters
    assert filters.name == "0.weight"
    assert torch.equal(filters.before, model[0].weight.detach()[:, 0])
    assert torch.equal(filters.after, state.exact.dequantize()["0.weight"][:, 0])
    packed = breaking(state.breaks)["filters"]
    after = np.frombuffer(packed["after"]["bdata"], packed["after"]["dtype"])
    most = float(filters.before.abs().max().clamp(min=filters.after.abs().max()))
    np.testing.assert_allclose(after, filters.after.reshape(-1) / most, rtol=1e-6)


def test_inputs_that_are_no_images_are_numbers():
    model = two_layers()
    state = explored(model, batches(), method="kmeans", levels=2)
    assert state.breaks.filters is None
    first = breaking(state.breaks)["flips"][0]
    assert first["picture"] is None
    assert first["text"].endswith(" …")
    assert len(first["text"].split()) == 13


def test_picture_spans_black_to_white():
    image = torch.linspace(-1, 1, 3 * 5 * 4).reshape(3, 5, 4)
    found = picture_of(image)
    pixels = np.frombuffer(found["rgb"]["bdata"], np.uint8).reshape(5, 4, 3)
    assert (found["width"], found["height"]) == (4, 5)
    assert (pixels.min(), pixels.max()) == (0, 255)
    np.testing.assert_array_equal(pixels[0, 0], np.round(255 * (image[:, 0, 0].numpy() + 1) / 2).astype(np.uint8))
    assert picture_of(torch.zeros(2, 8, 8)) is None
    assert picture_of(torch.zeros(7, dtype=torch.int64)) is None
    assert picture_of(torch.zeros(1, 2, 2)) is None


def test_without_data_it_is_told():
    state = ExplorerState(two_layers())
    assert state.wait(WAIT)
    state.find_breaks()
    assert "answers cannot be compared: there are no data" in state.error
