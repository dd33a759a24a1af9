import pytest
import torch
from torch import nn

from nbquant.sensitivity import sensitivity


def run(model, batches, **options):
    return sensitivity(model, batches, "exact", progress=False, **options)


def test_equals_the_hessian_diagonal(tanh_net, rows, oracle):
    expected = oracle.brute_force_hessian(tanh_net, rows)
    h = run(tanh_net, rows)
    oracle.close(h, {name: v.clamp(min=0) for name, v in expected.items()})
    assert h.clamped == {name: int((v < 0).sum()) for name, v in expected.items() if (v < 0).any()}


def test_of_attention_and_recurrence(oracle):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(3, 4, batch_first=True)
            self.attention = nn.TransformerEncoderLayer(4, 1, 3, activation="gelu", batch_first=True)

        def forward(self, x):
            return self.attention(self.rnn(x)[0]).flatten(1)[:, :3]

    net = Net().double().eval()
    batches = [(torch.randn(2, 2, 3).double(), torch.tensor([0, 2]))]
    h = run(net, batches)
    name = "attention.linear1.weight"
    weight = net.get_parameter(name)

    def f(value):
        return nn.functional.cross_entropy(torch.func.functional_call(net, {name: value}, batches[0][0]), batches[0][1])

    with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        hessian = torch.autograd.functional.hessian(f, weight.detach()).reshape(12, 12)
    assert torch.allclose(h[name].flatten(), hessian.diagonal().clamp(min=0), atol=1e-12)


def test_large_networks_are_refused():
    with pytest.raises(ValueError, match=r"limited to 20,000, but 20,100 .*gauss_newton"):
        run(nn.Linear(200, 100), [])
