import pytest
import torch
from torch import nn
from torch.nn import functional

from nbquant.sensitivity import sensitivity


def run(model, batches, method="gauss_newton_sampled", **options):
    return sensitivity(model, batches, method, progress=False, **options)


def pseudo_huber(output, target):
    return (1 + (output - target[:, None]).square()).sqrt().sum(1).mean()


def wells(output, target):
    """Not convex: curvature of both signs."""
    return (output.square() - 0.1 * (target[:, None] + 1)).square().mean()


def agree(found, exact, draws):
    """Sampling error falls with the root of the draws; entries hang on all samples' draws, so it is a few h at one."""
    for name, h in exact.items():
        assert ((found[name] - h).abs() <= (8 * h + h.max()) / draws**0.5).all(), name
    total = sum(h.sum() for h in exact.values()).item()
    assert sum(h.sum() for h in found.values()).item() == pytest.approx(total, rel=3 / draws**0.5)


@pytest.mark.parametrize("loss", [functional.cross_entropy, pseudo_huber, wells])
def test_mean_of_many_draws_is_the_exact_diagonal(tanh_net, rows, loss):
    agree(run(tanh_net, rows, loss=loss, draws=1_000), run(tanh_net, rows, "gauss_newton", loss=loss), 1_000)


def test_mean_of_many_draws_of_a_convolutional_network(convnet, images):
    agree(run(convnet, images, draws=200), run(convnet, images, "gauss_newton"), 200)


def test_mean_of_many_draws_of_an_attention_network():
    net = nn.Sequential(nn.TransformerEncoderLayer(4, 2, 3, batch_first=True), nn.Flatten(), nn.Linear(8, 3)).double()
    batches = [(torch.randn(3, 2, 4).double(), torch.randint(3, (3,)))]
    agree(run(net, batches, draws=150), run(net, batches, "gauss_newton"), 150)


def test_mean_of_runs_with_single_draws_is_the_exact_diagonal(tanh_net, rows):
    runs = [run(tanh_net, rows, seed=seed) for seed in range(50)]
    mean = {name: torch.stack([r[name] for r in runs]).mean(0) for name in runs[0]}
    agree(mean, run(tanh_net, rows, "gauss_newton"), 50)


def test_mean_squared_error(tanh_net):
    batches = [(torch.randn(5, 3).double(), torch.randn(5, 3).double())]
    exact = run(tanh_net, batches, "gauss_newton", loss=functional.mse_loss)
    found = run(tanh_net, batches, loss=functional.mse_loss, draws=1_000)
    agree(found, exact, 1_000)


def test_places_are_drawn_apart():
    net = nn.Sequential(nn.Conv1d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv1d(3, 4, 1)).double()
    batches = [(torch.randn(3, 2, 5).double(), torch.randint(4, (3, 5)))]
    exact, found = run(net, batches, "gauss_newton"), run(net, batches, draws=1_000)
    agree(found, exact, 1_000)


def test_the_seed_decides(tanh_net, rows):
    first, again, other = (run(tanh_net, rows, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
