import pytest
import torch
from torch import nn
from torch.nn import functional

from nbquant.sensitivity import sensitivity


def gn(model, batches, **options):
    return sensitivity(model, batches, "gauss_newton", progress=False, **options)


def test_equals_the_hessian_diagonal_of_a_relu_network(convnet, images, oracle):
    oracle.close(gn(convnet, images), oracle.brute_force_hessian(convnet, images))


def squared(output, target):
    return (output - functional.one_hot(target, output.shape[1])).square().mean()


def huber_like(output, target):
    return (1 + (output - target[:, None]).square()).sqrt().sum(1).mean()


def double_well(output, target):
    return (output.square() - 0.1 * (target[:, None] + 1)).square().mean()


@pytest.mark.parametrize(
    "loss", [functional.cross_entropy, squared, huber_like, nn.CrossEntropyLoss(label_smoothing=0.1)]
)
def test_equals_jacobian_hessian_jacobian_of_a_smooth_network(tanh_net, rows, oracle, loss):
    oracle.close(gn(tanh_net, rows, loss=loss), oracle.brute_force_ggn(tanh_net, rows, loss))


def test_a_loss_that_is_not_convex_in_the_output_subtracts(tanh_net, rows, oracle):
    expected = oracle.brute_force_ggn(tanh_net, rows, double_well)
    assert any((h < 0).any() for h in expected.values())
    with_clamp = {k: h.clamp(min=0) for k, h in expected.items()}
    found = gn(tanh_net, rows, loss=double_well)
    oracle.close(found, with_clamp)
    assert found.clamped == {k: int((h < 0).sum()) for k, h in expected.items() if (h < 0).any()}


def test_mean_squared_error_has_a_closed_form(tanh_net, oracle):
    batches = [(torch.randn(5, 3).double(), torch.randn(5, 3).double())]
    expected = oracle.brute_force_ggn(tanh_net, batches, functional.mse_loss)
    oracle.close(gn(tanh_net, batches, loss=functional.mse_loss), expected)
    oracle.close(gn(tanh_net, batches, loss=nn.MSELoss()), expected)


def test_soft_targets(tanh_net, oracle):
    batches = [(torch.randn(5, 3).double(), torch.rand(5, 3).double())]
    oracle.close(gn(tanh_net, batches), oracle.brute_force_ggn(tanh_net, batches))


def test_cross_entropy_over_places(oracle):
    net = nn.Sequential(nn.Conv1d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv1d(3, 4, 1)).double()
    batches = [(torch.randn(3, 2, 5).double(), torch.randint(4, (3, 5)))]
    oracle.close(gn(net, batches), oracle.brute_force_ggn(net, batches))


def test_a_loss_without_vmap_takes_the_loop(tanh_net, rows, oracle):
    def stubborn(output, target):
        scale = 2.0 if output.detach().abs().max().item() > 1e9 else 1.0  # .item() is what vmap refuses
        return scale * functional.cross_entropy(output, target)

    oracle.close(gn(tanh_net, rows, loss=stubborn), oracle.brute_force_ggn(tanh_net, rows))


def test_targets_may_be_a_dict(tanh_net, rows, oracle):
    def loss(output, target):
        return functional.cross_entropy(output, target["label"]) + 0.1 * output.square().mean()

    batches = [(x, {"label": y}) for x, y in rows]
    plain = oracle.brute_force_ggn(
        tanh_net, rows, lambda o, t: functional.cross_entropy(o, t) + 0.1 * o.square().mean()
    )
    oracle.close(gn(tanh_net, batches, loss=loss), plain)


def test_order_and_batch_size_do_not_matter(convnet, images, oracle):
    x, y = (torch.cat([b[i] for b in images]) for i in (0, 1))
    order = torch.randperm(7)
    whole = gn(convnet, [(x[order], y[order])])
    oracle.close(gn(convnet, images), whole, 1e-13)
    oracle.close(gn(convnet, [(x[i : i + 1], y[i : i + 1]) for i in range(7)]), whole, 1e-13)
    assert whole.samples == 7


def test_too_many_outputs_name_the_sampled_method(tanh_net):
    net = nn.Linear(2, 30_000)
    with pytest.raises(ValueError, match=r"29999 backward passes.*gauss_newton_sampled"):
        gn(net, [(torch.randn(2, 2), torch.zeros(2, dtype=torch.long))])
