"""The hot loops on CUDA devices, in Triton; ask :func:`unavailable` before importing a module of this package."""

import functools

import torch
from torch import Tensor


def unavailable(device: torch.device) -> str | None:
    """Why the kernels cannot run on a device; None where they can. Tried once for each device.

    Triton comes with torch's CUDA builds on Linux, but needs a C compiler when it first starts a kernel, so that only
    a start tells. Modules of this package import Triton; nothing else of nbquant does.
    """
    if device.type != "cuda":
        return f"the kernels are for CUDA devices, not for {device.type!r}"
    return _failed_start(device.index if device.index is not None else torch.cuda.current_device())


@functools.cache
def _failed_start(index: int) -> str | None:
    try:
        from nbquant.kernels.cuda.gather import gather

        codebook = torch.ones(1, device=f"cuda:{index}")
        found: Tensor = gather(codebook, torch.zeros(1, dtype=torch.int8, device=codebook.device))
        return None if found.item() == 1 else f"Triton's first kernel gave {found.item()} in place of 1"
    except ImportError as error:
        return f"Triton is not installed ({error})"
    except Exception as error:  # a missing compiler, an old driver, an old device: Triton has an error for each
        return f"Triton does not start a kernel ({type(error).__name__}: {error})"
