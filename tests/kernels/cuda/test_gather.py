"""The reconstruction against ``reference``."""

import pytest
import torch

from nbquant.kernels import cuda, reference
from nbquant.kernels.cuda import gather as module


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("index", [torch.int8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("n", [0, 1, 5001])
def test_it_is_the_references(dtype, index, n, device, monkeypatch):
    monkeypatch.setattr(module, "SLAB", 4096)
    codebook = torch.randn(31, generator=torch.Generator().manual_seed(0)).to(dtype)
    assignment = (torch.arange(n) % 32 - 1).to(index)
    found = module.gather(codebook.to(device), assignment.to(device))
    assert found.dtype == dtype
    assert torch.equal(found.cpu(), reference.gather(codebook, assignment))


def test_other_devices_are_told_why():
    assert "'cpu'" in (cuda.unavailable(torch.device("cpu")) or "")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_can_run_them():
    assert cuda.unavailable(torch.device("cuda")) is None
