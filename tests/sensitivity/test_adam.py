import pytest
import torch
from torch import nn
from torch.nn import functional

from nbquant.sensitivity import sensitivity


def run(model, batches=(), **options):
    return sensitivity(model, batches, "adam", progress=False, **options)


def train(net, rows, optimizer, steps=7):
    squares = {name: [] for name, _ in net.named_parameters()}
    for step in range(steps):
        x, y = rows[step % 2]
        optimizer.zero_grad()
        functional.cross_entropy(net(x), y).backward()
        for name, p in net.named_parameters():
            squares[name].append(p.grad.square().clone())
        optimizer.step()
    return squares


def ema(squares, decay):
    v = 0
    for g in squares:
        v = decay * v + (1 - decay) * g
    return v


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_takes_the_corrected_moment_of_an_optimizer(kind, tanh_net, rows):
    squares = train(tanh_net, rows, optimizer := kind(tanh_net.parameters(), betas=(0.9, 0.95)))
    h = run(tanh_net, optimizer=optimizer)
    for name, g in squares.items():
        assert torch.allclose(h[name], (ema(g, 0.95) / (1 - 0.95**7)).sqrt())
    assert h.samples == 0


def test_takes_the_moments_of_rmsprop_and_adagrad(tanh_net, rows):
    squares = train(tanh_net, rows, optimizer := torch.optim.RMSprop(tanh_net.parameters(), alpha=0.9))
    h = run(tanh_net, optimizer=optimizer)
    assert all(torch.allclose(h[name], ema(g, 0.9).sqrt()) for name, g in squares.items())
    squares = train(tanh_net, rows, optimizer := torch.optim.Adagrad(tanh_net.parameters()))
    h = run(tanh_net, optimizer=optimizer)
    assert all(torch.allclose(h[name], torch.stack(g).mean(0).sqrt()) for name, g in squares.items())


def test_gathers_them_in_one_pass_without_moving_a_weight(tanh_net, rows):
    before = {name: p.detach().clone() for name, p in tanh_net.named_parameters()}
    h = run(tanh_net, rows)
    frozen = torch.optim.Adam(tanh_net.parameters(), lr=0.0)
    train(tanh_net, rows, frozen, steps=2)
    expected = run(tanh_net, optimizer=frozen)
    for name, p in tanh_net.named_parameters():
        assert torch.equal(p, before[name])
        assert torch.allclose(h[name], expected[name])
    assert h.samples == 6


def test_an_optimizer_without_moments_is_refused(tanh_net, rows):
    with pytest.raises(ValueError, match=r"SGD must hold second moments of the 4 .* none for 4, first '0.weight'"):
        run(tanh_net, optimizer=torch.optim.SGD(tanh_net.parameters(), lr=0.1))
    fresh = torch.optim.Adam(nn.Linear(2, 2).parameters())
    with pytest.raises(ValueError, match="Adam must hold second moments"):
        run(tanh_net, optimizer=fresh)
    with pytest.raises(ValueError, match="optimizer is used by adam only"):
        sensitivity(tanh_net, rows, optimizer=fresh)
