import pytest
import torch
from torch import nn
from torch.nn import functional

from nbquant.sensitivity import sensitivity
from nbquant.sensitivity.hutchinson import hutchinson
from nbquant.sensitivity.problem import Problem


def run(model, batches, method="hutchinson", **options):
    return sensitivity(model, batches, method, progress=False, **options)


class Weights(nn.Module):
    """One output per weight: with a loss that adds over outputs the Hessian is diagonal."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(6, dtype=torch.float64))

    def forward(self, x):
        return x * self.w


def quartic(output, target):
    return output.pow(4).sum(1).mean()


def test_one_probe_is_exact_for_a_diagonal_hessian(oracle):
    x = torch.randn(5, 6, dtype=torch.float64)
    net = Weights()
    h = run(net, [(x[:3], torch.zeros(3)), (x[3:], torch.zeros(2))], loss=quartic)
    oracle.close(h, {"w": 12 * net.w.detach().square() * x.pow(4).mean(0)})


def test_is_unbiased(tanh_net, rows, oracle):
    expected = oracle.brute_force_hessian(tanh_net, rows)
    parameters = dict(tanh_net.named_parameters())
    raw, samples = hutchinson(
        Problem(tanh_net, parameters, rows, functional.cross_entropy, draws=600, progress=False),
    )
    assert samples == 6
    scale = max(h.abs().max().item() for h in expected.values())
    for name, h in expected.items():
        assert (raw[name] - h).abs().max() < 0.15 * scale, name


def test_negative_entries_are_clamped_and_counted(tanh_net, rows):
    h = run(tanh_net, rows)
    assert sum(h.clamped.values()) > 0
    assert all((h[name] >= 0).all() for name in h)
    assert all(int((h[name] == 0).sum()) >= count for name, count in h.clamped.items())


@pytest.mark.filterwarnings("ignore:h is zero for")
def test_a_parameter_in_which_the_loss_is_linear_has_none():
    class Mixed(Weights):
        def __init__(self):
            super().__init__()
            self.slope = nn.Parameter(torch.ones(2, dtype=torch.float64))

        def forward(self, x):
            return torch.cat([super().forward(x), self.slope.expand(len(x), 2)], 1)

    def loss(output, target):
        return output[:, :6].square().sum(1).mean() + output[:, 6:].sum(1).mean()

    for method in ("hutchinson", "exact"):
        h = run(Mixed(), [(torch.ones(2, 6).double(), torch.zeros(2))], method, loss=loss)
        assert h.inactive == ("slope",)
        assert torch.allclose(h["w"], torch.full((6,), 2.0).double())
