"""The paths that Triton finds against those of the definition: as cheap."""

import numpy as np
import pytest
import torch

from nbquant.kernels import reference
from nbquant.kernels.cuda import trellis as module
from nbquant.kernels.cuda.trellis import edges, viterbi
from tests.kernels.test_trellis import cost_of, draw


def there(problem, device):
    target, weight, step, costs, around, lmbda, states = problem
    return target.to(device), weight.to(device), step, costs, around.to(device), lmbda, states


@pytest.mark.parametrize("states", [1, 8])
@pytest.mark.parametrize("previous", [1, 2, 3])
@pytest.mark.parametrize(("rows", "cols", "spread"), [(1, 1, 1.0), (17, 5, 0.3), (9, 37, 4.0)])
def test_paths_are_as_cheap(states, previous, rows, cols, spread, device):
    problem = draw(rows, cols, states, 1 + previous % 3, previous, rows + previous, spread)
    found = viterbi(*there(problem, device))
    assert found.dtype == torch.int32
    expected = cost_of(reference.viterbi(*problem), *problem)
    np.testing.assert_allclose(cost_of(found.cpu(), *problem), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtypes_slabs_and_no_classes(dtype, device, monkeypatch):
    monkeypatch.setattr(module, "SLAB", 1)
    target, weight, step, costs, _, lmbda, states = draw(7, 70, 8, 1, 2, 3)
    target, weight = target.to(dtype), weight.to(dtype)
    found = viterbi(target.to(device), weight.to(device), step, costs, None, lmbda, states).cpu()
    problem = target, weight, step, costs, None, lmbda, states
    np.testing.assert_allclose(
        cost_of(found, *problem), cost_of(reference.viterbi(*problem), *problem), rtol=1e-5, atol=1e-6
    )


def test_nothing_to_walk(device):
    target, weight, *rest = draw(0, 4, 8, 1, 1, 0)
    assert viterbi(target.to(device), weight.to(device), rest[0], rest[1], None, *rest[3:]).shape == (0, 4)


@pytest.mark.parametrize(("states", "previous", "most"), [(1, 1, 1), (1, 3, 3), (8, 1, 2), (8, 3, 6)])
def test_edges_are_all_branches_of_all_nodes(states, previous, most):
    whence, way = edges(states, previous)
    assert whence.shape[0] == most
    used = whence >= 0
    branches = previous - 1 + (2 if states == 8 else 1)
    assert used.sum() == states * previous * branches
    assert way[used].max() == (2 if states == 8 else 1) * previous * branches - 1
