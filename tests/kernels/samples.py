"""Weights and sensitivities that every kernel is tried on."""

import pytest
import torch

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SIZES = [1, 2, 3, 17, 257, 1023]


def draw(n, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(n, generator=generator, dtype=torch.float64)
    sensitivity = torch.randn(n, generator=generator, dtype=torch.float64).mul(3).exp()
    return weight.to(dtype), sensitivity.clamp(max=1e4).to(dtype)


def awkward(dtype):
    """Zeros of both signs, subnormals, largest and smallest floats, repeats; sensitivities of every kind."""
    info = torch.finfo(dtype)
    largest = min(info.max, 1e38)  # squares of larger float64 do not fit
    weight = [
        0.0,
        -0.0,
        info.tiny,
        -info.tiny,
        info.tiny * info.eps,
        -info.tiny * info.eps,
        largest,
        -largest,
        1,
        1,
        -1,
    ]
    sensitivity = [0.0, -0.0, info.tiny, info.tiny * info.eps, 1, 1, min(largest, 1e30), 0.5, 0, 2, 3]
    return torch.tensor(weight, dtype=dtype), torch.tensor(sensitivity, dtype=dtype)


SAMPLES = [
    *(pytest.param(*draw(n, dtype), id=f"{dtype}-{n}") for dtype in DTYPES for n in SIZES),
    *(pytest.param(*awkward(dtype), id=f"{dtype}-awkward") for dtype in DTYPES),
    *(pytest.param(torch.full((33,), 0.3, dtype=d), torch.ones(33, dtype=d), id=f"{d}-constant") for d in DTYPES),
]
