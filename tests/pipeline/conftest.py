import copy
from functools import cache

import pytest
import torch
from torch import nn

from nbquant.models.batches import Batches


@cache
def _blobs():
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(3, 10, generator=generator)
    target = torch.arange(240) % 3
    inputs = centre[target] + 2.0 * torch.randn(240, 10, generator=generator)
    return Batches(inputs, target, batch_size=24)


@cache
def _network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(20):
        for inputs, target in _blobs():
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), target).backward()
            optimizer.step()
    model.zero_grad()
    return model


@pytest.fixture
def blobs():
    """Three classes of points in ten dimensions that overlap."""
    return _blobs()


@pytest.fixture
def network():
    """A network with batch norm and dropout that has been trained on them."""
    return copy.deepcopy(_network())
