"""One weight followed into the file, from a map, a value or an index."""

import pytest
import torch

from nbquant.widgets.jobs.trace import at_index, at_place, nearest_to
from nbquant.widgets.state import ExplorerState
from tests.widgets.samples import WAIT, network, sensitivities


def test_place_of_a_map_is_the_weight_there():
    matrix = torch.arange(12.0).reshape(3, 4)
    assert matrix.reshape(-1)[at_place(2.3, 0.6)(matrix)] == matrix[1, 2]
    kernels = torch.arange(2 * 3 * 5 * 5.0).reshape(2, 3, 5, 5)
    found = at_place(1 - 0.5 + 0.3, 1 - 0.5 + 0.9)(kernels)  # kernel (1, 1): column 0.3 · 5, row 0.9 · 5
    assert kernels.reshape(-1)[found] == kernels[1, 1, 4, 1]
    with pytest.raises(ValueError, match="one of the 3 rows"):
        at_place(0, 3)(matrix)


def test_value_and_index_find_their_weight():
    weight = torch.tensor([[0.5, -1.0], [2.0, 0.4]])
    assert nearest_to(0.41)(weight) == 3
    assert at_index("[1, 0]")(weight) == 2
    for text in ("1", "2, 0", "-1, 0", "a, b"):
        with pytest.raises(ValueError, match="2 numbers up to 1, 1"):
            at_index(text)(weight)


def test_trace_follows_the_point_and_goes_with_the_focus():
    model = network()
    state = ExplorerState(model, sensitivity=sensitivities(model), method="kmeans", ratio=6.0, focus="2.weight")
    assert state.wait(WAIT)
    state.trace_text("3, 17")
    assert state.wait(WAIT)
    found = state.traced
    assert (found.name, found.place) == ("2.weight", (3, 17))
    assert found.weight == float(model[2].weight[3, 17].detach())
    assert found.value == float(state.exact.dequantize()["2.weight"][3, 17])
    state.ratio = 12.0
    assert state.wait(WAIT)
    assert state.traced.place == (3, 17)
    assert state.traced.value == float(state.exact.dequantize()["2.weight"][3, 17]) != found.value
    state.trace_text("300, 0")
    assert state.wait(WAIT)
    assert state.error == "the index of a weight must be 2 numbers up to 29, 39, but is '300, 0'"
    state.focus = "0.weight"
    assert state.wait(WAIT)
    assert state.traced is None
