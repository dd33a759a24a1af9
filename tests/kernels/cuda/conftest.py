"""Where there is no CUDA device, Triton's kernels run in its interpreter, on the CPU."""

import importlib.util
import os

import pytest
import torch

collect_ignore_glob = [] if importlib.util.find_spec("triton") else ["test_*.py"]

if importlib.util.find_spec("triton") and not torch.cuda.is_available():
    # Triton asks for it when a kernel is defined: at the import, its own functions included.
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    from nbquant.kernels.cuda import assign, gather, histogram, trellis  # noqa: F401

    if before is None:
        del os.environ["TRITON_INTERPRET"]


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    if not torch.cuda.is_available():
        monkeypatch.setenv("TRITON_INTERPRET", "1")


@pytest.fixture
def device():
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
