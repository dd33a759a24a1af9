"""Oracles: plain autograd, one sample and one output at a time, sharing no code with the package."""

import pytest
import torch
from torch import nn
from torch.nn import functional


def call(model, inputs):
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def one(value, n):
    if isinstance(value, dict):
        return {k: one(v, n) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(one(v, n) for v in value)
    return value[n : n + 1]


def brute_force_ggn(model, batches, loss=functional.cross_entropy):
    """diag of mean_n Jᵀ H J, from the whole Jacobian of every sample."""
    model.eval()
    named = dict(model.named_parameters())
    total, samples = {k: torch.zeros_like(p) for k, p in named.items()}, 0
    for inputs, target in batches:
        for n in range(len(target)):
            output = call(model, one(inputs, n))
            t = one(target, n)
            hessian = torch.autograd.functional.hessian(lambda z, t=t: loss(z, t), output.detach())
            hessian = hessian.reshape(output.numel(), output.numel())
            rows = [
                torch.autograd.grad(y, list(named.values()), retain_graph=True, materialize_grads=True)
                for y in output.flatten()
            ]
            for i, k in enumerate(named):
                jacobian = torch.stack([row[i].flatten() for row in rows])
                total[k] += torch.einsum("ki,kl,li->i", jacobian, hessian, jacobian).reshape(named[k].shape)
            samples += 1
    return {k: h.detach() / samples for k, h in total.items()}


def brute_force_hessian(model, batches, loss=functional.cross_entropy):
    """Hessian diagonal of the mean loss over all samples, by torch.func on the joined data."""
    model.eval()
    named = {k: p.detach() for k, p in model.named_parameters()}
    x, y = (torch.cat([b[i] for b in batches]) for i in (0, 1))
    out = {}
    for name in named:

        def f(flat, name=name):
            values = {**named, name: flat.reshape(named[name].shape)}
            return loss(torch.func.functional_call(model, values, (x,)), y)

        hessian = torch.autograd.functional.hessian(f, named[name].flatten())
        out[name] = hessian.diagonal().reshape(named[name].shape)
    return out


def close(found, expected, tolerance=1e-10):
    """Equal up to ``tolerance`` relative to the largest entry of each parameter."""
    assert list(found) == list(expected)
    for name, h in expected.items():
        scale = h.abs().max().clamp(min=1e-12)
        gap = ((found[name] - h).abs().max() / scale).item()
        assert gap <= tolerance, f"{name}: off by {gap:.2e} of the largest entry"


class Bundle:
    brute_force_ggn = staticmethod(brute_force_ggn)
    brute_force_hessian = staticmethod(brute_force_hessian)
    close = staticmethod(close)


@pytest.fixture
def oracle():
    return Bundle


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # all tensors are small: more threads only wait for each other
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def convnet():
    """ReLU, max-pool, batch norm with running statistics that are not trivial; a residual addition."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(2, 3, 3, padding=1)
            self.norm = nn.BatchNorm2d(3)
            self.conv2 = nn.Conv2d(3, 3, 3, padding=1, bias=False)
            self.fc = nn.Linear(12, 4)
            self.act = nn.ReLU(inplace=True)

        def forward(self, x):
            x = self.act(self.norm(self.conv1(x)))
            x = x + self.conv2(x)
            return self.fc(functional.max_pool2d(x, 2).flatten(1))

    net = Net().double()
    net.norm.running_mean.normal_()
    net.norm.running_var.uniform_(0.5, 2)
    nn.init.normal_(net.norm.weight)
    return net


@pytest.fixture
def images():
    """Seven samples in batches of unequal size."""
    x, y = torch.randn(7, 2, 4, 4, dtype=torch.float64), torch.randint(4, (7,))
    return [(x[:4], y[:4]), (x[4:6], y[4:6]), (x[6:], y[6:])]


@pytest.fixture
def tanh_net():
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double()


@pytest.fixture
def rows():
    x, y = torch.randn(6, 3, dtype=torch.float64), torch.randint(3, (6,))
    return [(x[:4], y[:4]), (x[4:], y[4:])]
