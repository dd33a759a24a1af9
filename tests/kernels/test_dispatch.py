"""Which kernels run where."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nbquant.kernels import compiled, cuda, dispatch, reference
from tests.kernels.samples import draw


def on(device, dtype=torch.float32):
    return SimpleNamespace(device=torch.device(device), dtype=dtype)


@pytest.fixture
def nothing_said(monkeypatch):
    monkeypatch.setattr(compiled, "_said", set())


def test_without_triton_torch_takes_over_and_says_so_once_a_reason(monkeypatch, nothing_said):
    monkeypatch.setattr(cuda, "unavailable", lambda device: "no C compiler")
    with pytest.warns(RuntimeWarning, match=r"cuda:0 \(no C compiler\)"):
        assert dispatch._kernels(on("cuda:0"), on("cuda:0")) == "reference"
    assert dispatch._kernels(on("cuda:0")) == "reference"  # warnings are errors here
    monkeypatch.setattr(cuda, "unavailable", lambda device: "an old driver")
    with pytest.warns(RuntimeWarning, match="an old driver"):
        dispatch._kernels(on("cuda:0"))


def test_where_triton_runs_it_does_but_for_float64(monkeypatch, nothing_said):
    monkeypatch.setattr(cuda, "unavailable", lambda device: None)
    assert dispatch._kernels(on("cuda:0"), on("cuda:0", torch.bfloat16)) == "cuda"
    assert dispatch._kernels(on("cuda:0", torch.float64)) == "reference"
    assert dispatch._kernels(on("cuda:0"), on("cuda:0", torch.float64)) == "reference"


@pytest.mark.parametrize("device", ["mps", "xpu"])
def test_devices_that_have_no_kernels_use_torch_without_a_word(device, nothing_said):
    assert dispatch._kernels(on(device)) == "reference"


def test_cuda_kernels_get_what_they_ask_for(monkeypatch):
    def histogram(weight, sensitivity, marginal_shift, joint_shift):
        marginal = reference.marginal_histogram(weight, sensitivity, marginal_shift)
        joint = reference.joint_histogram(weight, sensitivity, joint_shift)
        return tuple(x.numpy() for x in (*marginal, *joint))

    def assign(weight, sensitivity, codebook, codeword_length, lmbda, out, constant=None, skip_zeros=False):
        tables = torch.from_numpy(codebook), torch.from_numpy(codeword_length)
        found, sums = reference.assign(weight, sensitivity, *tables, lmbda, constant, skip_zeros)
        out.copy_(found)
        return sums.numpy()

    def assign_grid(weight, sensitivity, step, offset, first, cells, out, skip_zeros=False):
        found, sums = reference.assign_grid(weight, sensitivity, step, offset, first, cells, skip_zeros)
        out.copy_(found)
        return sums.numpy()

    weight, h = draw(500, torch.float32)
    weight[::5] = 0

    def work():
        first, second = torch.empty(500, dtype=torch.int8), torch.empty(500, dtype=torch.int8)
        yield from dispatch.histogram(weight, h, 16, 18)
        args = np.linspace(-2, 2, 9), np.arange(1.0, 10)
        yield dispatch.assign(weight, h, *args, 0.1, first, constant=0.3, skip_zeros=True)
        yield dispatch.assign_grid(weight, h, 0.5, 0.25, -20, 41, second, skip_zeros=True)
        yield first.numpy()
        yield second.numpy()
        yield dispatch.gather(weight[:9], first).numpy()

    expected = list(work())
    monkeypatch.setattr(dispatch, "_kernels", lambda *tensors: "cuda")
    monkeypatch.setattr(cuda, "histogram", SimpleNamespace(histogram=histogram), raising=False)
    monkeypatch.setattr(cuda, "assign", SimpleNamespace(assign=assign, assign_grid=assign_grid), raising=False)
    monkeypatch.setattr(cuda, "gather", SimpleNamespace(gather=reference.gather), raising=False)
    for a, b in zip(work(), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
