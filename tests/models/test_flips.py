"""Samples whose answer differs between two networks."""

import pytest
import torch
from torch import nn

from nbquant.models.flips import find_flips


def pair():
    torch.manual_seed(0)
    before = nn.Linear(6, 4)
    after = nn.Linear(6, 4)
    with torch.no_grad():
        after.weight.copy_(before.weight + 0.5 * torch.randn(4, 6))
        after.bias.copy_(before.bias)
    return after, before


def test_flips_are_those_of_all_samples_one_by_one():
    after, before = pair()
    x, y = torch.randn(300, 6), torch.randint(4, (300,))
    found = find_flips(after, before, [(x[:200], y[:200]), (x[200:], y[200:])], most=1000, progress=False)
    a, b = after(x).argmax(1), before(x).argmax(1)
    differ = {int(i) for i in (a != b).nonzero()}
    assert {f.sample for f in found.examples} == differ
    assert len(differ) > 20
    assert (found.labels, found.samples) == (300, 300)
    assert found.count["broken"] == int(((b == y) & (a != y)).sum())
    assert found.count["mended"] == int(((b != y) & (a == y)).sum())
    assert sum(found.count.values()) == len(differ)
    for flip in found.examples:
        assert (flip.before, flip.after, flip.target) == (b[flip.sample], a[flip.sample], y[flip.sample])
        assert torch.equal(flip.input, x[flip.sample])
        assert flip.confidence == pytest.approx(float(after(x[flip.sample]).detach().softmax(-1).max()), rel=1e-5)


def test_what_was_right_comes_first_and_few_are_kept():
    after, before = pair()
    x = torch.randn(300, 6)
    found = find_flips(after, before, [(x, before(x).argmax(1))], most=5, progress=False)
    assert [f.kind for f in found.examples] == ["broken"] * 5
    assert found.count["broken"] > 5


def test_labels_of_sequences_have_their_place():
    torch.manual_seed(0)

    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(10, 3)

        def forward(self, ids):
            return self.table(ids).movedim(-1, 1)

    before, after = Tagger(), Tagger()
    ids = torch.randint(10, (5, 7))
    target = torch.randint(3, (5, 7))
    target[2, 3:] = -100
    found = find_flips(after, before, [(ids, target)], most=1000, progress=False)
    differ = (after(ids).argmax(1) != before(ids).argmax(1)) & (target != -100)
    assert {(f.sample, f.position) for f in found.examples} == {tuple(map(int, at)) for at in differ.nonzero()}
    assert torch.equal(found.examples[0].input, ids[found.examples[0].sample])


def test_networks_without_classes_are_refused():
    after, before = pair()
    with pytest.raises(ValueError, match="that classifies is required"):
        find_flips(after, before, [(torch.randn(5, 6), torch.randn(5, 4))], nn.functional.mse_loss, progress=False)
