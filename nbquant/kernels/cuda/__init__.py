"""CUDA kernels, in Triton; call :func:`unavailable` before importing a module of this package."""

import functools

import torch
from torch import Tensor


def unavailable(device: torch.device) -> str | None:
    """Test whether the kernels run on a device; returns the reason if not, else None. Tested once per device.

    Triton comes with torch's CUDA builds on Linux, but needs a C compiler when it first starts a kernel, so that only
    an actual start is a test. Only the modules of this package import Triton.
    """
    if device.type != "cuda":
        return f"the kernels require a CUDA device, not {device.type!r}"
    return _failed_start(device.index if device.index is not None else torch.cuda.current_device())


@functools.cache
def _failed_start(index: int) -> str | None:
    try:
        from nbquant.kernels.cuda.gather import gather

        codebook = torch.ones(1, device=f"cuda:{index}")
        found: Tensor = gather(codebook, torch.zeros(1, dtype=torch.int8, device=codebook.device))
        return None if found.item() == 1 else f"Triton's first kernel returned {found.item()} instead of 1"
    except ImportError as error:
        return f"Triton is not installed ({error})"
    except Exception as error:  # a missing compiler, an old driver or device: Triton has an error for each
        return f"Triton does not start a kernel ({type(error).__name__}: {error})"
