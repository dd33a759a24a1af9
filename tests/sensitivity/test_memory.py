"""Peak memory of estimators, as multiples of that of plain forward and backward passes: counted, not measured."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from nbquant.sensitivity import gram, sensitivity
from nbquant.sensitivity.calibration import calibrate


def peak(run):
    """The most bytes that torch holds at once, beyond what it holds before and without what stays."""
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        run()
    held = most = 0
    for event in profile.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def plain(model, batches):
    for inputs, target in batches:
        model.zero_grad()
        functional.cross_entropy(model(inputs), target).backward()


def convolutions():
    layers = [nn.Conv2d(3, 8, 3, padding=1)]
    for _ in range(6):
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.PReLU(8)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)), (16, 3, 24, 24)


class Marked(nn.Module):
    """A transformer with a parameter that no formula covers."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
        self.mark, self.body = nn.Parameter(torch.randn(1, 1, 32)), nn.TransformerEncoder(layer, 4, None, False)
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.body(x + self.mark).mean(1))


@pytest.mark.parametrize("method", ["gauss_newton_sampled", "empirical_fisher"])
@pytest.mark.parametrize("make", [convolutions, lambda: (Marked(), (16, 24, 32))], ids=["convolutions", "transformer"])
def test_takes_hardly_more_than_a_training_step(make, method):
    model, shape = make()
    model.eval()
    batches = [(torch.randn(shape), torch.randint(4, shape[:1])) for _ in range(2)]
    sensitivity(model, batches, method, progress=False)  # what is made once
    step = peak(lambda: plain(model, batches))
    assert step > 1 << 20
    assert peak(lambda: sensitivity(model, batches, method, progress=False)) < 1.35 * step


def test_calibration_does_not_unfold_wide_kernels():
    model = nn.Sequential(nn.Conv1d(1, 8, 64, 4), nn.ReLU(), nn.Conv1d(8, 8, 512, 16), nn.Flatten(), nn.LazyLinear(4))
    batches = [(torch.randn(8, 1, 12000), torch.randint(4, (8,))) for _ in range(2)]
    model(batches[0][0])
    found = []
    unfolded = 4 * 8 * 512 * 8 * (((12000 - 64) // 4 + 1 - 512) // 16 + 1)  # bytes of a batch
    assert unfolded > 2 * gram.CHUNK
    taken = peak(lambda: found.append(calibrate(model, batches, progress=False)))
    moments = found[0].moments("2", {})
    kept = sum(block.nbytes for block in moments.blocks) + moments.held_back.nbytes
    assert taken < 2 * kept + 12 * gram.CHUNK
