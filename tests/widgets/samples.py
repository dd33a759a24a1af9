"""A small data set and sensitivities for tests of the explorer."""

import torch
from torch import Tensor, nn

WAIT = 60.0
"""Seconds that results of a small network may take on a busy machine."""


def network() -> nn.Sequential:
    """Three layers for :func:`batches`."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 5))


def two_layers() -> nn.Sequential:
    """A smaller one for them."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 5))


def of_blocks() -> nn.Sequential:
    """Three layers whose rows are whole blocks of 32 weights."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32, bias=False), nn.Linear(32, 64, bias=False), nn.Linear(64, 8, bias=False))


def batches(samples: int = 64) -> list[tuple[Tensor, Tensor]]:
    """Batches of 16 samples of 20 numbers, in five classes."""
    torch.manual_seed(1)
    return [(torch.randn(16, 20), torch.randint(5, (16,))) for _ in range(samples // 16)]


def sensitivities(model: nn.Module) -> dict[str, Tensor]:
    """Random ones of every parameter."""
    torch.manual_seed(2)
    return {name: torch.rand(p.shape) + 0.01 for name, p in model.named_parameters()}
