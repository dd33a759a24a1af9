"""Estimators on networks as people bring them, against brute force that shares no code with the package."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from nbquant.sensitivity import sensitivity
from tests.networks import Vit, cases

SMALL = cases(small=True, batches=2)


def run(case, method, **options):
    return sensitivity(case.model, case.batches, method, loss=case.loss, progress=False, **options)


def call(model, inputs):
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def logits_of(output):
    return output["logits"] if isinstance(output, dict) else output


def made(name):
    torch.manual_seed(0)
    case = SMALL[name]()
    model = case.model.double()
    for p in model.parameters():  # nothing is zero or one by chance
        p.data.add_(0.3 * torch.randn_like(p))
    return type(case)(model, [(double(x), y) for x, y in case.batches], case.loss)


def double(x):
    if isinstance(x, tuple):
        return tuple(map(double, x))
    return x.double() if x.is_floating_point() else x


def split(case):
    """The same samples, one a batch."""
    batches = []
    for x, y in case.batches:
        for n in range(len(y)):
            one = tuple(part[n : n + 1] for part in x) if isinstance(x, tuple) else x[n : n + 1]
            batches.append((one, y[n : n + 1]))
    return type(case)(case.model, batches, case.loss)


def brute_force(case):
    """diag of Jᵀ H J of the mean over all labels, from whole Jacobians and autograd's Hessian of the loss."""
    named = dict(case.model.named_parameters())
    loss = case.loss or functional.cross_entropy
    total, count = {k: torch.zeros_like(p) for k, p in named.items()}, 0
    for inputs, labels in case.batches:
        output = call(case.model, inputs)
        z = logits_of(output)
        leaf = z.detach().requires_grad_()
        value = loss({"logits": leaf} if isinstance(output, dict) else leaf, labels)
        (slope,) = torch.autograd.grad(value, leaf, create_graph=True)
        hessian = torch.stack([torch.autograd.grad(s, leaf, retain_graph=True)[0].flatten() for s in slope.flatten()])
        rows = [
            torch.autograd.grad(
                entry, list(named.values()), retain_graph=True, materialize_grads=True, allow_unused=True
            )
            for entry in z.flatten()
        ]
        for i, name in enumerate(named):
            jacobian = torch.stack([row[i].flatten() for row in rows])
            part = torch.einsum("ki,kl,li->i", jacobian, hessian, jacobian).reshape(named[name].shape)
            total[name] += labels.numel() * part
        count += labels.numel()
    return {k: h.detach() / count for k, h in total.items()}


@pytest.mark.parametrize("name", SMALL)
def test_gauss_newton_equals_brute_force_and_the_mean_of_draws_is_it(name, oracle):
    case = made(name)
    exact = run(case, "gauss_newton")
    oracle.close(exact, brute_force(case), 1e-8)
    oracle.close(run(split(case), "gauss_newton"), dict(exact), 1e-8)
    drawn = run(case, "gauss_newton_sampled", draws=30)
    ratios = [float(drawn[k].sum() / h.sum()) for k, h in exact.items() if h.numel() > 8]
    assert sum(ratios) / len(ratios) == pytest.approx(1, abs=0.25)
    for k, h in exact.items():
        assert ((drawn[k] - h).abs() <= 3 * h + 1.5 * h.max()).all(), k


@pytest.mark.parametrize("name", SMALL)
def test_empirical_fisher_is_a_loop_over_samples(name, oracle):
    case = made(name)
    loss = case.loss or functional.cross_entropy
    named, samples = dict(case.model.named_parameters()), 0
    total = {k: torch.zeros_like(p) for k, p in named.items()}
    for inputs, labels in split(case).batches:
        value = loss(call(case.model, inputs), labels)
        for k, g in zip(
            named,
            torch.autograd.grad(value, list(named.values()), allow_unused=True, materialize_grads=True),
            strict=True,
        ):
            total[k] += g.square()
        samples += 1
    oracle.close(run(case, "empirical_fisher"), {k: h / samples for k, h in total.items()}, 1e-9)


@pytest.mark.parametrize("method", ["gauss_newton_sampled", "empirical_fisher", "adam", "hutchinson"])
@pytest.mark.parametrize("name", SMALL)
def test_the_model_is_left_as_it_was(name, method):
    case = made(name)
    case.model.train()
    before = {k: v.clone() for k, v in case.model.state_dict().items()}
    names = [n for n, _ in case.model.named_parameters(remove_duplicate=False)]
    own = [sorted(vars(m)) for m in case.model.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in case.model.modules()]
    run(case, method)
    after = case.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert names == [n for n, _ in case.model.named_parameters(remove_duplicate=False)]
    assert own == [sorted(vars(m)) for m in case.model.modules()]
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in case.model.modules()]
    assert all(m.training for m in case.model.modules())
    assert all(p.grad is None and p.requires_grad for p in case.model.parameters())


def test_frozen_parameters_can_be_weighed(oracle):
    case = made("ViT with class token")
    everything = run(case, "gauss_newton")
    case.model.requires_grad_(False)
    chosen = ["cls_token", "layers.0.self_attn.in_proj_weight"]
    found = run(case, "gauss_newton", parameters=chosen)
    oracle.close(found, {k: everything[k] for k in chosen}, 1e-10)
    assert not any(p.requires_grad for p in case.model.parameters())


class Either(nn.Module):
    """A layer that only long batches meet, and one that counts its calls in a buffer."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        long = x.abs().sum(1, keepdim=True) > 3
        z = self.a(x)
        if bool(long.any()):
            z = torch.where(long, self.b(x), z)
        return self.out(z.tanh())


@pytest.mark.parametrize("method", ["gauss_newton", "empirical_fisher"])
def test_layers_that_some_batches_do_not_meet(method, oracle):
    model = Either().double()
    x, y = torch.randn(12, 4).double(), torch.randint(3, (12,))
    order = x.abs().sum(1).argsort()
    x, y = x[order], y[order]
    short = int((x.abs().sum(1) <= 3).sum())
    assert 2 < short < 10
    by_kind = [(x[:short], y[:short]), (x[short:], y[short:])]
    mixed = [(x[::2], y[::2]), (x[1::2], y[1::2])]
    expected = sensitivity(model, [(a[None], b[None]) for a, b in zip(x, y, strict=True)], method, progress=False)
    for batches in (by_kind, by_kind[::-1], mixed, [(x, y)]):
        oracle.close(sensitivity(model, batches, method, progress=False), dict(expected), 1e-10)
    assert model.calls == 0


def test_a_mask_of_another_length_each_batch():
    """A vision transformer called by name, beside an argument whose length is now and then that of the batch."""

    class Masked(Vit):
        def forward(self, image, channels):
            return super().forward(image * channels[:, None, None])

    torch.manual_seed(0)
    model = Masked(8, 1, 2, 3).double().eval()
    channels = torch.tensor([1.0, 0.5, 2.0]).double()
    found = {}
    for n in (2, 3, 6):
        images, labels = torch.randn(6, 3, 8, 8).double(), torch.arange(6) % 3
        torch.manual_seed(1)
        images.copy_(torch.randn(6, 3, 8, 8))
        batches = [
            ({"image": a, "channels": channels}, b) for a, b in zip(images.split(n), labels.split(n), strict=True)
        ]
        found[n] = sensitivity(model, batches, "empirical_fisher", progress=False)
    for name, h in found[2].items():
        assert torch.allclose(found[3][name], h, rtol=1e-9)
        assert torch.allclose(found[6][name], h, rtol=1e-9)


def test_samples_along_the_second_dimension(oracle):
    class TimeFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.out = nn.GRU(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.out(self.rnn(x)[0][-1])

    model, x, y = TimeFirst().double(), torch.randn(5, 7, 3).double(), torch.arange(7) % 2
    batches = [(x[:, :4], y[:4]), (x[:, 4:], y[4:])]
    alone = [(x[:, n : n + 1], y[n : n + 1]) for n in range(7)]
    for method in ("gauss_newton", "empirical_fisher"):
        found = sensitivity(model, batches, method, progress=False)
        assert found.samples == 7
        oracle.close(found, dict(sensitivity(model, alone, method, progress=False)), 1e-9)


def test_bags_of_words(oracle):
    class Bags(nn.Module):
        def __init__(self, mode):
            super().__init__()
            self.bag = nn.EmbeddingBag(8, 4, mode=mode, padding_idx=2)
            self.out = nn.Linear(4, 3)

        def forward(self, ids, *offsets):
            return self.out(self.bag(ids, *offsets).tanh())

    ids, y = torch.tensor([[1, 1, 2], [3, 2, 2], [4, 5, 5], [1, 0, 7]]), torch.tensor([0, 1, 2, 1])
    flat = ids.flatten()
    for mode in ("sum", "mean"):
        model = Bags(mode).double()
        expected = sensitivity(
            model, [(a[None], b[None]) for a, b in zip(ids, y, strict=True)], "gauss_newton", progress=False
        )
        oracle.close(sensitivity(model, [(ids, y)], progress=False, method="gauss_newton"), dict(expected), 1e-10)
        offsets = [((flat, torch.arange(0, 12, 3)), y)]
        drawn = sensitivity(model, offsets, "gauss_newton_sampled", draws=800, progress=False)
        for name, h in expected.items():
            assert (drawn[name] - h).abs().max() < 0.35 * h.max(), name
        oracle.close(sensitivity(model, offsets, "gauss_newton", progress=False), dict(expected), 1e-10)


def test_the_conv1d_of_transformers(oracle):
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
    model = nn.Sequential(conv1d(6, 4), nn.Tanh(), nn.Flatten(), nn.Linear(18, 3)).double()
    batches = [(torch.randn(4, 3, 4).double(), torch.arange(4) % 3)]
    oracle.close(
        sensitivity(model, batches, "gauss_newton", progress=False), oracle.brute_force_ggn(model, batches), 1e-10
    )


def test_long_loops_are_announced(monkeypatch):
    from nbquant.sensitivity import per_sample

    case = made("LSTM language model")
    monkeypatch.setattr(per_sample, "LONG", 0.0)
    with pytest.warns(UserWarning, match=r"have no formula and take a backward pass .*gauss_newton_sampled"):
        run(case, "gauss_newton")


@pytest.mark.parametrize(
    "method", ["gauss_newton", "gauss_newton_sampled", "empirical_fisher", "becker_lecun", "exact"]
)
@pytest.mark.parametrize("in_place", [True, False])
def test_compiled_models(method, in_place, tanh_net, rows):
    expected = sensitivity(tanh_net, rows, method, progress=False)
    compiled = tanh_net
    if in_place:
        tanh_net.compile(backend="eager")
        if method == "becker_lecun":
            with pytest.raises(ValueError, match="cannot be traced"):
                sensitivity(tanh_net, rows, method, progress=False)
            return
    else:
        compiled = torch.compile(tanh_net, backend="eager")
    found = sensitivity(compiled, rows, method, progress=False)
    assert [name.removeprefix("_orig_mod.") for name in found] == list(expected)
    assert all(torch.equal(a, b) for a, b in zip(found.values(), expected.values(), strict=True))
