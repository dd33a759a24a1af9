import pytest
import torch
from torch import nn
from torch.nn import functional

from nbquant.sensitivity import sensitivity


def becker(model, batches, **options):
    return sensitivity(model, batches, "becker_lecun", progress=False, **options)


def test_hand_worked_chain():
    """z = v tanh(wx), ℓ = (z − t)²: every step has one unit, so nothing is dropped."""
    net = nn.Sequential(nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 1)).double()
    w, b, v, c, x, t = 0.5, 0.1, -1.5, 0.2, 0.8, -1.0
    for p, value in zip(net.parameters(), (w, b, v, c), strict=True):
        p.data.fill_(value)
    h = becker(net, [(torch.tensor([[x]]).double(), torch.tensor([[t]]).double())], loss=functional.mse_loss)
    f = torch.tanh(torch.tensor(w * x + b).double()).item()
    first, second = 1 - f * f, -2 * f * (1 - f * f)
    error = v * f + c - t
    s = first**2 * v * v * 2 + second * v * 2 * error
    assert s > 0
    assert h["2.weight"].item() == pytest.approx(2 * f * f)
    assert h["2.bias"].item() == pytest.approx(2)
    assert h["0.weight"].item() == pytest.approx(s * x * x)
    assert h["0.bias"].item() == pytest.approx(s)


def test_hand_worked_dropped_terms():
    """Two outputs of one hidden unit each weigh w²; the product of two paths is dropped."""
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 2, bias=False)).double()
    net[0].weight.data.fill_(2.0)
    net[1].weight.data.copy_(torch.tensor([[1.0], [3.0]]))
    h = becker(net, [(torch.ones(1, 1).double(), torch.tensor([0]))])
    p = torch.tensor([2.0, 6.0]).double().softmax(0)
    s = p * (1 - p)
    assert h["0.weight"].item() == pytest.approx((s[0] * 1 + s[1] * 9).item())
    assert torch.allclose(h["1.weight"].flatten(), s * 4)


def test_equals_the_hessian_for_one_linear_layer(rows, oracle):
    net = nn.Linear(3, 3).double()
    oracle.close(becker(net, rows), oracle.brute_force_hessian(net, rows))


def test_last_layer_of_any_chain_is_exact(rows, tanh_net, oracle):
    h, exact = becker(tanh_net, rows), oracle.brute_force_hessian(tanh_net, rows)
    oracle.close({k: h[k] for k in ("2.weight", "2.bias")}, {k: exact[k] for k in ("2.weight", "2.bias")})


def diagonal_step(matrix, s):
    return (matrix.square().T @ s.flatten()).reshape(-1)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(2, 3, 3, stride=2, padding=1), (2, 5, 5)),
        (nn.Conv1d(2, 4, 2, groups=2, dilation=2), (2, 6)),
        (nn.AvgPool2d(2), (2, 4, 4)),
        (nn.AvgPool2d(3, stride=1), (1, 5, 5)),
        (nn.AdaptiveAvgPool2d(1), (3, 4, 3)),
        (nn.AdaptiveAvgPool2d((2, 1)), (3, 4, 3)),
        (nn.MaxPool2d(3, stride=2), (2, 7, 7)),
        (nn.BatchNorm2d(2), (2, 3, 3)),
        (nn.Dropout(0.5), (6,)),
    ],
    ids=str,
)
def test_every_linear_step_squares_its_matrix(layer, shape):
    """diag(Aᵀ diag(s) A) by the whole matrix A, s from a last layer whose weights are known."""
    layer = layer.double().eval()
    if isinstance(layer, nn.BatchNorm2d):
        layer.running_var.uniform_(0.5, 2)
        nn.init.normal_(layer.weight)
    x = torch.randn(1, *shape, dtype=torch.float64)
    size = layer(x).numel()
    scale = nn.BatchNorm1d(x.numel(), eps=0).double()  # h of its weight 1 is s x², which shows s at the input
    net = nn.Sequential(nn.Flatten(), scale, nn.Unflatten(1, shape), layer, nn.Flatten(), nn.Linear(size, 3).double())
    h = becker(net, [(x, torch.tensor([1]))])
    p = net.eval()(x).softmax(1)[0].detach()
    s = net[-1].weight.detach().square().T @ (p * (1 - p))
    matrix = torch.autograd.functional.jacobian(lambda y: layer(y.reshape(x.shape)).flatten(), x.flatten())
    expected = diagonal_step(matrix, s)
    assert torch.allclose(h["1.bias"], expected, rtol=1e-10)
    assert torch.allclose(h["1.weight"], expected * x.flatten().square(), rtol=1e-10)


def test_functional_style_equals_modules():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2, self.fc = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 3, 2), nn.Linear(12, 4)

        def forward(self, x):
            x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
            x = functional.avg_pool2d(torch.tanh(self.conv2(x)), 1)
            x = functional.dropout(x, training=self.training)
            return self.fc(x.view(x.size(0), -1))

    net = Functional().double()
    modules = nn.Sequential(
        *(net.conv1, nn.ReLU(inplace=True), nn.MaxPool2d(2), net.conv2, nn.Tanh(), nn.AvgPool2d(1), nn.Dropout()),
        *(nn.Flatten(), net.fc),
    )
    batches = [(torch.randn(3, 1, 8, 8).double(), torch.randint(4, (3,)))]
    for a, b in zip(becker(net, batches).values(), becker(modules, batches).values(), strict=True):
        assert torch.equal(a, b)


def test_what_is_not_a_chain_is_named(convnet, images, rows):
    with pytest.raises(ValueError, match=r"'add' .*joins 2 tensors.*gauss_newton"):
        becker(convnet, images)
    with pytest.raises(ValueError, match=r"does not support LayerNorm '1'.*gauss_newton"):
        becker(nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)).double(), rows)
    net = nn.Sequential(nn.AvgPool2d(2, padding=1, count_include_pad=False), nn.Flatten(), nn.Linear(9, 2))
    with pytest.raises(ValueError, match=r"windows of unequal size in AvgPool2d '0'"):
        becker(net.double(), [(torch.randn(1, 1, 4, 4).double(), torch.tensor([0]))])

    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x):
            return self.fc(x) if x.sum() > 0 else self.fc(-x)

    with pytest.raises(ValueError, match=r"Branching cannot be traced.*gauss_newton"):
        becker(Branching().double(), rows)
