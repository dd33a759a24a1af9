"""Losses recorded as a loss function calls them."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from nbquant.losses import record, record_loss

Z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 3, -100, 1, 2, -100])


def mass(loss, samples=6):
    z = Z.clone().requires_grad_()
    return record(lambda: loss(z)).mass(samples)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (lambda z: functional.cross_entropy(z, Y), 4),
        (lambda z: functional.cross_entropy(z, Y, weight=torch.tensor([1.0, 2, 3, 4])), 1 + 4 + 2 + 3),
        (lambda z: functional.cross_entropy(z, Y, reduction="sum"), 1),
        (lambda z: functional.cross_entropy(z, Y, reduction="sum") / 6, 6),
        (lambda z: functional.cross_entropy(z, Y, reduction="none").sum() / 4, 4),
        (lambda z: functional.nll_loss(z.log_softmax(1), Y), 4),
        (lambda z: functional.mse_loss(z, torch.zeros(6, 4)), 24),
        (lambda z: nn.KLDivLoss(reduction="batchmean")(z.log_softmax(1), torch.full((6, 4), 0.25)), 6),
        (lambda z: z.square().mean(), 6),  # nothing of torch's: samples
        (lambda z: functional.cross_entropy(z, Y) + functional.mse_loss(z, torch.zeros(6, 4)), 6),  # two that disagree
        (lambda z: functional.cross_entropy(z, torch.full((6,), -100)), 0),
    ],
)
@pytest.mark.filterwarnings("ignore:reduction")
def test_a_batch_counts_by_what_its_loss_divides_by(loss, expected):
    assert mass(loss) == pytest.approx(expected)


def test_means_of_batches_weighted_by_their_mass_are_that_of_all():
    for loss in (
        functional.cross_entropy,
        nn.CrossEntropyLoss(torch.tensor([1.0, 5.0, 0.2, 2.0]), label_smoothing=0.1),
        lambda z, y: functional.cross_entropy(z, y, reduction="none").sum() / (y != -100).sum(),
    ):
        whole = loss(Z, Y)
        parts = [(record_loss(loss, z, y), len(y)) for z, y in zip(Z.split([1, 2, 3]), Y.split([1, 2, 3]), strict=True)]
        total = sum(found.mass(n) * float(found.value) for found, n in parts)
        assert total / sum(found.mass(n) for found, n in parts) == pytest.approx(float(whole), rel=1e-5)


def test_a_loss_that_is_no_constant_multiple_has_no_terms():
    z = Z.clone().requires_grad_()
    focal = record(lambda: ((1 - (-functional.cross_entropy(z, Y, reduction="none")).exp()) ** 2).mean())
    assert focal.terms == ()
    assert len(focal.calls) == 1


def test_targets_that_depend_on_the_output_are_no_targets():
    z = Z.clone().requires_grad_()
    assert record(lambda: functional.mse_loss(z, z.flip(0))).calls == ()
    assert len(record(lambda: functional.mse_loss(z, z.detach().flip(0))).calls) == 1


def test_logits_are_no_logarithms_of_probabilities():
    z = Z.clone().requires_grad_()
    assert record(lambda: functional.nll_loss(z, Y.clamp(min=0))).calls == ()
