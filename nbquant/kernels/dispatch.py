"""Picks the kernel for the device the tensors are on: numba on the CPU, plain torch elsewhere."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nbquant.kernels import reference
from nbquant.kernels.cpu import assign as cpu_assign
from nbquant.kernels.cpu import histogram as cpu_histogram

THREADS = os.cpu_count() or 1
SPLIT_ABOVE = 1 << 18  # weights; below this a second thread costs more than it saves


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="nbquant-kernel")


def _over_chunks(kernel: Callable[..., np.ndarray], *arrays: np.ndarray) -> list[np.ndarray]:
    """Run ``kernel`` on slices of the arrays, one slice a core."""
    n = len(arrays[0])
    if n <= SPLIT_ABOVE or THREADS == 1:
        return [kernel(*arrays)]
    edges = np.linspace(0, n, THREADS + 1).astype(int)
    slices = [slice(a, b) for a, b in pairwise(edges)]
    return list(_pool().map(lambda s: kernel(*(a[s] for a in arrays)), slices))


def _array(tensor: Tensor) -> np.ndarray:
    """One-dimensional contiguous array; bfloat16 and half widen to float32, float64 stays."""
    tensor = tensor.detach().reshape(-1)
    return (tensor if tensor.dtype == torch.float64 else tensor.float()).contiguous().numpy()


def joint_histogram(weight: Float[Tensor, " n"], sensitivity: Float[Tensor, " n"]) -> tuple[np.ndarray, np.ndarray]:
    """See :func:`nbquant.kernels.reference.joint_histogram`; numpy arrays."""
    if weight.device.type == "cpu":
        return cpu_histogram.joint_histogram(_array(weight), _array(sensitivity))
    key, sums = reference.joint_histogram(weight, sensitivity)
    return key.cpu().numpy(), sums.cpu().numpy()


def assign(
    weight: Float[Tensor, " n"],
    sensitivity: Float[Tensor, " n"],
    codebook: np.ndarray,
    codeword_length: np.ndarray,
    lmbda: float,
) -> Int64[Tensor, " n"]:
    """See :func:`nbquant.kernels.reference.assign`; the codebook is a float64 array."""
    if weight.device.type == "cpu":
        length = np.asarray(codeword_length, np.float64)
        parts = _over_chunks(
            lambda w, h: cpu_assign.assign(w, h, codebook, length, float(lmbda)), _array(weight), _array(sensitivity)
        )
        return torch.from_numpy(np.concatenate(parts)).long()
    centres = torch.from_numpy(codebook).to(weight.device)
    lengths = torch.from_numpy(np.asarray(codeword_length, np.float64)).to(weight.device)
    return reference.assign(weight, sensitivity, centres, lengths, lmbda)


def cluster_sums(
    weight: Float[Tensor, " n"], sensitivity: Float[Tensor, " n"], assignment: Int64[Tensor, " n"], levels: int
) -> np.ndarray:
    """See :func:`nbquant.kernels.reference.cluster_sums`; a numpy array (levels, 4)."""
    if weight.device.type == "cpu":
        parts = _over_chunks(
            lambda w, h, a: cpu_assign.cluster_sums(w, h, a, levels),
            _array(weight),
            _array(sensitivity),
            assignment.numpy(),
        )
        return np.sum(parts, axis=0)
    return reference.cluster_sums(weight, sensitivity, assignment, levels).cpu().numpy()
