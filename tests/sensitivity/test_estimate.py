import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from nbquant.progress import Cancelled
from nbquant.sensitivity import estimators, sensitivity


def run(model, batches, method="gauss_newton", **options):
    return sensitivity(model, batches, method, progress=False, **options)


ALL = sorted(estimators.names())


def snapshot(model):
    return (
        [(m.training, dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in model.modules()],
        [(p.requires_grad, None if p.grad is None else p.grad.clone(), p.detach().clone()) for p in model.parameters()],
        [b.clone() for b in model.buffers()],
        torch.get_rng_state(),
        torch.is_grad_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
    )


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def small():
    """A chain, so that every method takes it; in train mode, with a frozen part, a gradient, and dropout."""
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 3)).double()
    net.train()
    net[1].eval()
    net[1].bias.requires_grad_(False)
    net[0].weight.grad = torch.ones(4, 3).double()
    net[4].register_forward_hook(lambda layer, args, output: None)
    return net


@pytest.mark.parametrize("method", ALL)
def test_leaves_the_model_as_it_was(method, rows):
    net = small()
    before = snapshot(net)
    with torch.no_grad():
        h = run(net, rows, method)
    assert same(before, snapshot(net))
    assert list(h) == ["0.weight", "0.bias", "1.weight", "4.weight", "4.bias"]
    assert all(v.shape == net.get_parameter(k).shape and not v.requires_grad for k, v in h.items())
    assert all(v.grad_fn is None and v.is_contiguous() for v in h.values())
    assert h.samples == 6
    assert h.method == method


@pytest.mark.parametrize("method", ALL)
def test_leaves_the_model_as_it_was_after_a_failure_or_a_cancel(method, rows):
    net = small()
    wrong = torch.randn(2, 5).double()
    before = snapshot(net)
    with pytest.raises(RuntimeError, match=r"shapes|size"):
        run(net, [rows[0], (wrong, rows[1][1])], method)
    assert same(before, snapshot(net))

    def cancel(done, total):
        if done == 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        sensitivity(net, rows, method, progress=cancel)
    assert same(before, snapshot(net))


@pytest.mark.parametrize("method", [m for m in ALL if m not in ("hutchinson", "gauss_newton_sampled", "adam")])
def test_order_and_batch_size_do_not_matter(method, rows, oracle):
    net = small()
    x, y = (torch.cat([b[i] for b in rows]) for i in (0, 1))
    order = torch.randperm(6)
    oracle.close(run(net, [(x[order], y[order])], method), run(net, rows, method), 1e-12)


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_narrow_weights_give_float32(method, dtype, rows):
    net = small()
    expected = run(net, rows, method)
    net = net.to(dtype)
    rows = [(x.float(), y) for x, y in rows]  # inputs follow the model
    h = run(net, rows, method)
    assert all(v.dtype == torch.float32 for v in h.values())
    if method not in ("hutchinson", "gauss_newton_sampled"):
        tolerance = {torch.bfloat16: 0.15, torch.float16: 0.02, torch.float32: 1e-4}[dtype]
        for name, v in expected.items():
            assert (h[name] - v).abs().max() < tolerance * v.abs().max(), name


@pytest.mark.parametrize("method", [m for m in ALL if m != "becker_lecun"])
def test_tied_weights_come_once_and_an_unused_one_is_reported(method):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.unused = nn.Linear(3, 3), nn.Linear(3, 3, bias=False), nn.Linear(2, 2, bias=False)
            self.b.weight = self.a.weight
            self.count = nn.Parameter(torch.tensor(1), requires_grad=False)

        def forward(self, x):
            return self.b(self.a(x).tanh())

    net = Net().double()
    batches = [(torch.randn(64, 3).double(), torch.randint(3, (64,)))]
    with pytest.warns(UserWarning, match="'unused.weight'.*does not depend"):
        h = run(net, batches, method, seed=3)
    assert list(h) == ["a.weight", "a.bias", "unused.weight"]
    assert h.inactive == ("unused.weight",)
    assert not h["unused.weight"].any()
    assert "unused.weight" in repr(h)


def test_parameters_choose_even_frozen_ones_and_aliases(rows, oracle):
    net = small()
    everything = run(net, rows)
    chosen = run(net, rows, parameters=["4.weight", "1.bias"])
    assert list(chosen) == ["1.bias", "4.weight"]
    assert torch.allclose(chosen["4.weight"], everything["4.weight"], rtol=1e-12)
    assert not net[1].bias.requires_grad
    net[1].alias = net[4]
    assert list(run(net, rows, parameters="4.bias")) == ["1.alias.bias"]
    with pytest.raises(ValueError, match=r"'4.wieght' is none: did you mean .*'4.weight'"):
        run(net, rows, parameters=["4.wieght"])
    with pytest.raises(ValueError, match="at least one"):
        run(net, rows, parameters=[])


def test_damping_is_applied(rows):
    plain, damped = run(small(), rows), None
    torch.manual_seed(0)
    net = small()
    plain, damped = run(net, rows), run(net, rows, damping=0.5)
    assert torch.allclose(damped["0.bias"], plain["0.bias"] + 0.5 * plain.mean)
    assert damped.damping == 0.5


def test_progress_is_told(rows):
    seen = []
    sensitivity(small(), rows, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 2), (1, 2), (2, 2)]


def test_batches_may_be_a_loader_or_a_generator(rows, oracle):
    net = small()
    x, y = (torch.cat([b[i] for b in rows]) for i in (0, 1))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=4, shuffle=True)
    oracle.close(run(net, loader), run(net, (b for b in rows)), 1e-12)


def test_methods_describe_themselves():
    assert list(estimators.names()) == [
        *("gauss_newton_sampled", "gauss_newton", "empirical_fisher", "becker_lecun", "hutchinson", "adam", "exact"),
    ]
    assert all(0 < len(m.description) <= 90 and "\n" not in m.description for m in estimators.ESTIMATORS)


def test_unknown_method_names_the_nearest(rows):
    with pytest.raises(ValueError, match=r"'gauss_newtn'.*did you mean 'gauss_newton'"):
        run(small(), rows, "gauss_newtn")


@pytest.mark.parametrize("method", ALL)
def test_no_batches(method):
    for empty in ([], [(torch.zeros(0, 3), torch.zeros(0).long())]):
        with pytest.raises(ValueError, match="at least one batch"):
            run(small(), empty, method)


def test_batches_that_are_no_pairs(rows):
    with pytest.raises(ValueError, match=r"pairs \(inputs, target\), but one is a Tensor of length 4"):
        run(small(), rows[0])


@pytest.mark.parametrize("method", ALL)
def test_losses_that_are_no_mean(method, rows):
    def vector(output, target):
        return functional.cross_entropy(output, target, reduction="none")

    def total(output, target):
        return functional.cross_entropy(output, target, reduction="sum")

    with pytest.raises(ValueError, match=r"shape \(4,\)"):
        run(small(), rows, method, loss=vector)
    with pytest.raises(ValueError, match=r"must be the mean over the batch.*on 4 samples"):
        run(small(), rows, method, loss=total)
    with pytest.raises(TypeError, match="float"):
        run(small(), rows, method, loss=lambda output, target: 1.0)


@pytest.mark.parametrize("method", ALL)
def test_what_is_not_finite_is_refused(method, rows):
    x, y = rows[0]
    net = small()
    with pytest.raises(ValueError, match="loss of a batch of 4 samples is nan"):
        run(net, [(x * math.nan, y)], method)
    with pytest.raises(ValueError, match="loss of a batch of 4 samples is inf"):
        run(net, rows, method, loss=lambda o, t: functional.cross_entropy(o, t) + math.inf)


def test_sensitivities_that_are_not_finite_name_the_parameter():
    net = nn.Linear(3, 2, bias=False)
    x = torch.tensor([[1e25, 0.0, 1.0]])
    net.weight.data.zero_()
    with pytest.raises(ValueError, match=r"2 of 6 of parameter 'weight'"):
        run(net, [(x, torch.tensor([0]))])


def test_nothing_to_estimate(rows):
    with pytest.raises(ValueError, match="trainable floating-point parameter, but none of its 0"):
        run(nn.ReLU(), rows)
    frozen = nn.Linear(3, 3).requires_grad_(False)
    with pytest.raises(ValueError, match="none of its 2"):
        run(frozen, rows)


@pytest.mark.parametrize("method", ALL)
def test_all_zero_is_refused(method, rows):
    with pytest.raises(ValueError, match="all sensitivities of the 5 parameters are zero"):
        run(small(), rows, method, loss=lambda o, t: 0.0 * o.sum(1).mean())


def test_options_are_checked(rows):
    with pytest.raises(ValueError, match="draws must be at least 1"):
        run(small(), rows, draws=0)
    with pytest.raises(ValueError, match="damping must be"):
        run(small(), rows, damping=-1.0)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("method", ALL)
def test_follows_the_model_to_cuda(method, rows):
    net = small()
    expected = run(net, rows, method)
    h = run(net.cuda(), rows, method)
    assert all(v.device.type == "cuda" for v in h.values())
    if method not in ("hutchinson", "gauss_newton_sampled"):
        assert all(torch.allclose(h[k].cpu(), v, rtol=1e-9, atol=1e-12) for k, v in expected.items())


def test_no_warning_without_cause(rows):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(small(), rows)


@pytest.mark.parametrize(
    ("loss", "targets", "message"),
    [
        (nn.MultiMarginLoss(), torch.arange(16) % 5, "requires the second derivative of the loss, but torch has none"),
        (nn.L1Loss(), torch.zeros(16, 5), "has no curvature .an absolute error has none"),
    ],
)
def test_losses_without_curvature_are_told(loss, targets, message):
    data = [(torch.randn(16, 8, generator=torch.Generator().manual_seed(0)), targets)]
    with pytest.raises(ValueError, match=message):
        sensitivity(nn.Linear(8, 5), data, loss=loss, progress=False)
    found = sensitivity(nn.Linear(8, 5), data, "adam", loss=loss, progress=False)
    assert any(h.any() for h in found.values())
