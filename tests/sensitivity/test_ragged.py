"""Bags of ids one after the other, with offsets, against autograd bag by bag."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from nbquant.sensitivity import sensitivity, taps


class Bags(nn.Module):
    def __init__(self, mode="sum", padding_idx=None, last=False):
        super().__init__()
        self.bag = nn.EmbeddingBag(7, 4, mode=mode, padding_idx=padding_idx, include_last_offset=last)
        self.scale, self.out = nn.Parameter(torch.rand(4) + 0.5), nn.Linear(4, 3)

    def forward(self, ids, offsets, weights=None):
        return self.out((self.scale * self.bag(ids, offsets, per_sample_weights=weights)).tanh())


LENGTHS = ((3, 1, 5, 2), (2, 0, 4), (6,))


def bags(last, weighted):
    """Batches of bags, and the bags alone; ids come again within a bag."""
    batches, alone = [], []
    for lengths in LENGTHS:
        ids = torch.randint(5, (sum(lengths),))
        weights = (torch.rand(len(ids)).double(),) if weighted else ()
        begin = torch.tensor((0, *lengths)).cumsum(0)
        target = torch.randint(3, (len(lengths),))
        batches.append(((ids, begin if last else begin[:-1], *weights), target))
        for n, length in enumerate(lengths):
            part = slice(int(begin[n]), int(begin[n + 1]))
            offsets = torch.tensor([0, length] if last else [0])
            alone.append(((ids[part], offsets, *(w[part] for w in weights)), target[n : n + 1]))
    return batches, alone


def by_hand(model, alone):
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for inputs, target in alone:
        model.zero_grad()
        functional.cross_entropy(model(*inputs), target).backward()
        for name, p in model.named_parameters():
            total[name] += 0 if p.grad is None else p.grad.square()
    return {name: h / len(alone) for name, h in total.items()}


@pytest.mark.parametrize("last", [False, True], ids=["begins", "begins and the end"])
@pytest.mark.parametrize("mode", ["sum", "mean", "padded", "weighted"])
def test_empirical_fisher_equals_a_loop_over_bags(mode, last, oracle):
    model = Bags("mean" if mode in ("mean", "padded") else "sum", 2 if mode == "padded" else None, last).double().eval()
    batches, alone = bags(last, mode == "weighted")
    expected = by_hand(model, alone)
    model.zero_grad()
    oracle.close(sensitivity(model, batches, "empirical_fisher", progress=False), expected)


def test_exact_gauss_newton_equals_that_of_bags_alone(oracle, monkeypatch):
    model = Bags("mean").double().eval()
    batches, alone = bags(False, False)
    found = sensitivity(model, batches, "gauss_newton", progress=False)
    monkeypatch.setattr(taps, "is_supported", lambda layer: False)
    oracle.close(found, dict(sensitivity(model, alone, "gauss_newton", progress=False)))


def test_sampled_bags_are_squared_one_by_one():
    """Noise of a draw is that of bags apart, well below that of one square of all."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.EmbeddingBag(200, 4, mode="sum")).double().eval()
    ids, begin = torch.arange(200), torch.arange(0, 200, 2)
    batches = [({"input": ids, "offsets": begin}, torch.randint(4, (100,)))]
    exact = sensitivity(model[0], batches, "gauss_newton", progress=False)["weight"]
    drawn = sensitivity(model[0], batches, progress=False, draws=400)["weight"]
    assert ((drawn - exact).abs() < 0.5 * exact + 1e-4).all()
