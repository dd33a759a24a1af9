"""What clusters lose, against ``reference`` and added up one by one."""

import numpy as np
import pytest
import torch

from nbquant.kernels import dispatch, reference
from tests.kernels.samples import DTYPES, SAMPLES, draw


def assignment_of(n, levels, dtype=torch.int16):
    return torch.randint(-1, levels, (n,), generator=torch.Generator().manual_seed(n)).to(dtype)


def one_by_one(weight, h, codebook, assignment):
    sums = np.zeros((len(codebook) + 1, 3))
    for i, j in enumerate(assignment.tolist()):
        c = float(codebook[j]) if j >= 0 else 0.0
        mass = 1.0 if h is None else float(h[i])
        sums[j] += [1, mass, 0.5 * mass * (float(weight[i]) - c) ** 2]
    return sums


@pytest.mark.parametrize("levels", [0, 1, 7, 300])
@pytest.mark.parametrize(("weight", "sensitivity"), SAMPLES)
def test_losses_are_those_added_up(weight, sensitivity, levels):
    codebook = torch.linspace(-1.5, 2, levels, dtype=torch.float64).to(weight.dtype)
    assignment = assignment_of(len(weight), levels)
    for h in (sensitivity, None):
        found = dispatch.cluster_losses(weight, h, codebook, assignment)
        expected = reference.cluster_losses(weight, h, codebook, assignment).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        np.testing.assert_allclose(expected, one_by_one(weight, h, codebook, assignment), rtol=1e-12)


@pytest.mark.parametrize("integers", [torch.int8, torch.int16, torch.int32, torch.int64])
def test_indices_of_any_integers(integers):
    weight, h = draw(1000, torch.float32)
    assignment = assignment_of(1000, 100, integers)
    found = dispatch.cluster_losses(weight, h, weight[:100], assignment)
    np.testing.assert_allclose(found, one_by_one(weight, h, weight[:100], assignment), rtol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_chunks_give_what_one_pass_gives(dtype, monkeypatch):
    weight, h = draw(1001, dtype)
    args = weight, h, weight[:9], assignment_of(1001, 9)
    whole = dispatch.cluster_losses(*args)
    monkeypatch.setattr(dispatch, "SPLIT_ABOVE", 10)
    monkeypatch.setattr(dispatch, "THREADS", 3)
    monkeypatch.setattr(dispatch, "CHUNK", 37)
    np.testing.assert_allclose(dispatch.cluster_losses(*args), whole, rtol=1e-12)
    monkeypatch.setattr(dispatch, "_kernels", lambda *tensors: "reference")
    np.testing.assert_allclose(dispatch.cluster_losses(*args), whole, rtol=1e-12)


def test_no_weights():
    none = torch.zeros(0)
    assert dispatch.cluster_losses(none, None, torch.ones(2), none.to(torch.int8)).tolist() == [[0.0] * 3] * 3


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", DTYPES)
def test_on_a_device(dtype):
    weight, h = draw(1023, dtype)
    codebook, assignment = weight[:20], assignment_of(1023, 20)
    there = dispatch.cluster_losses(weight.cuda(), h.cuda(), codebook, assignment)
    np.testing.assert_allclose(there, dispatch.cluster_losses(weight, h, codebook, assignment), rtol=1e-9)
