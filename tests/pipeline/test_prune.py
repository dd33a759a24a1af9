import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import nbquant as nq
from nbquant.pipeline.prune import cubic_schedule, magnitude_masks, prune
from nbquant.progress import Cancelled

WEIGHTS = ("0.weight", "4.weight")


def cut(model, density, batches=None, **options):
    return prune(model, density, batches, **{"progress": False, **options})


def flat(model, names=WEIGHTS):
    return torch.cat([model.get_parameter(name).detach().reshape(-1) for name in names])


def by_sorting(weight, keep):
    """Zero all but the ``keep`` entries of greatest magnitude, the first ones of equals."""
    order = sorted(range(len(weight)), key=lambda i: (-abs(float(weight[i])), i))
    kept = torch.zeros_like(weight)
    kept[order[:keep]] = weight[order[:keep]]
    return kept


@pytest.mark.parametrize("density", [0.01, 0.1, 0.5, 0.73, 1.0, 1])
def test_global_keeps_the_greatest(network, density):
    pruned = cut(network, density)
    weight = flat(network)
    assert torch.equal(flat(pruned.model), by_sorting(weight, round(density * len(weight))))
    assert tuple(pruned.masks) == WEIGHTS
    assert pruned.density == round(density * len(weight)) / len(weight)
    for name, parameter in network.named_parameters():
        if name not in WEIGHTS:
            assert torch.equal(pruned.model.get_parameter(name), parameter)


def test_by_layer_keeps_the_same_part_of_each(network):
    pruned = cut(network, 0.3, scope="layer")
    for name in WEIGHTS:
        weight = flat(network, [name])
        assert torch.equal(flat(pruned.model, [name]), by_sorting(weight, round(0.3 * len(weight))))


def test_a_density_for_each_layer(network):
    pruned = cut(network, {"0": 0.25, "4.weight": 0.5})
    assert {name: int(mask.sum()) for name, mask in pruned.masks.items()} == {"0.weight": 40, "4.weight": 24}
    assert tuple(cut(network, {"[4]*": 0.5}).masks) == ("4.weight",)


@given(
    st.lists(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=9), min_size=1),
    st.floats(0.01, 1),
)
def test_exactly_the_wanted_number_whatever_the_ties(parts, density):
    weights = {str(number): torch.tensor(part) for number, part in enumerate(parts)}
    masks = magnitude_masks(weights, density)
    joined = torch.cat(list(weights.values()))
    keep = max(1, round(density * len(joined)))
    mask = torch.cat(list(masks.values()))
    assert int(mask.sum()) == min(keep, int(joined.count_nonzero()))
    assert torch.equal(torch.where(mask, joined, 0), by_sorting(joined, keep))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(network, dtype):
    model = copy.deepcopy(network).to(dtype)
    weight = flat(model)
    assert torch.equal(flat(cut(model, 0.4).model), by_sorting(weight, round(0.4 * len(weight))))


def test_what_is_pruned_already_counts(network):
    once = cut(network, 0.1)
    again = cut(once.model, 0.1)
    assert torch.equal(flat(once.model), flat(again.model))
    more = cut(once.model, 0.5)
    assert torch.equal(flat(once.model), flat(more.model))
    assert more.density == once.density
    assert [record.density for record in more.history] == [once.density] * 2


def test_the_shipped_network_is_pruned_already():
    model, _ = nq.zoo.load("lenet5-fashion-pruned")
    pruned = cut(model, 0.1)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in pruned.model.state_dict().items())


def test_biases_and_norms_only_by_their_full_names(network):
    assert tuple(cut(network, 0.5, layers="0").masks) == ("0.weight",)
    assert tuple(cut(network, 0.5, layers=network[4]).masks) == ("4.weight",)
    assert tuple(cut(network, 0.5, layers=(name for name in ["0", "1.weight", "4.bias"])).masks) == (
        "0.weight", "1.weight", "4.bias",
    )  # fmt: skip


def test_tied_weights_are_one():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    pruned = cut(model, 0.5, layers="1")
    assert pruned.model[0].weight is pruned.model[1].weight
    assert tuple(pruned.masks) == ("0.weight",)
    assert int(pruned.model[1].weight.count_nonzero()) == 8


def test_zeros_are_positive(network):
    assert not torch.signbit(flat(cut(network, 0.1).model)[flat(cut(network, 0.1).model) == 0]).any()


@given(st.floats(0.01, 1), st.floats(0.01, 1), st.integers(1, 20))
def test_schedule(before, density, steps):
    found = cubic_schedule(before, density, steps)
    sparsity = [1 - d for d in found]
    if before > density:  # in the words of Zhu and Gupta
        s_i, s_f = 1 - before, 1 - density
        expected = [s_f + (s_i - s_f) * (1 - t / steps) ** 3 for t in range(1, steps + 1)]
        assert sparsity == pytest.approx(expected, abs=1e-12)
    assert len(found) == steps
    assert found[-1] == density
    assert list(found) == sorted(found, reverse=True)


def test_schedule_by_hand():
    assert cubic_schedule(1.0, 0.2, 4) == pytest.approx([0.2 + 0.8 * 27 / 64, 0.2 + 0.8 / 8, 0.2 + 0.8 / 64, 0.2])


OPTIMIZERS = [
    None,
    lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9, weight_decay=0.1),
    lambda p, lr: torch.optim.AdamW(p, lr=lr, weight_decay=0.1),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_gradual(network, blobs, optimizer):
    pruned = cut(network, 0.2, blobs, steps=3, epochs=2, optimizer=optimizer, lr=0.01, test=blobs)
    count = len(flat(network))
    records = [(r.step, r.epoch) for r in pruned.history]
    assert records == [(0, 0)] + [(step, epoch) for step in (1, 2, 3) for epoch in (0, 1, 2)]
    for record in pruned.history:
        wanted = 1.0 if record.step == 0 else cubic_schedule(1.0, 0.2, 3)[record.step - 1]
        assert record.density == round(wanted * count) / count
        assert (record.train_loss is None) == (record.epoch == 0)
    assert int(flat(pruned.model).count_nonzero()) == round(0.2 * count)
    for name, mask in pruned.masks.items():
        assert torch.equal(pruned.model.get_parameter(name) != 0, mask)
    found = nq.evaluate(pruned.model, blobs, progress=False)
    assert (found.loss, found.accuracy) == (pruned.history[-1].test_loss, pruned.history[-1].test_accuracy)
    if optimizer is None:  # the others' weight decay is strong
        assert pruned.history[-1].test_loss < pruned.history[-3].test_loss
    assert not torch.equal(pruned.model[0].bias, network[0].bias)  # the rest is trained too
    assert int(pruned.model[1].num_batches_tracked) == int(network[1].num_batches_tracked) + 6 * len(blobs)


def test_masks_hold_after_every_step(network, blobs):
    densities = []

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network

        def forward(self, x):
            densities.append(float((self.inner[0].weight != 0).double().mean()))
            return self.inner(x)

    cut(Watched(), 0.25, blobs, layers="inner.0", steps=2, epochs=1, lr=0.05)
    assert densities == [round(d * 160) / 160 for d in cubic_schedule(1.0, 0.25, 2) for _ in blobs]


def test_four_steps_unless_told_otherwise(network, blobs):
    assert [r.step for r in cut(network, 0.2, blobs).history] == [0, 1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("batches", [False, True])
def test_model_and_random_numbers_stay(network, blobs, batches):
    network[1].eval()
    network[4].weight.requires_grad_(False)
    before, modes = copy.deepcopy(network.state_dict()), [m.training for m in network.modules()]
    state = torch.get_rng_state()
    pruned = cut(network, 0.2, blobs if batches else None, test=blobs)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    for model in (network, pruned.model):
        assert [m.training for m in model.modules()] == modes
        assert [p.requires_grad for p in model.parameters()] == [True, True, True, True, False, True]
        assert all(p.grad is None for p in model.parameters())


def test_the_same_seed_gives_the_same_network(network, blobs):
    one, two, other = (cut(network, 0.2, blobs, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(flat(one.model), flat(two.model))
    assert not torch.equal(flat(one.model), flat(other.model))


def test_frame_and_repr(network, blobs):
    plain = cut(network, 0.25)
    assert repr(plain) == "Pruned(Sequential, density 0.25: 52 of 208 kept)"
    assert plain.to_frame()["test_accuracy"].isna().all()
    pruned = cut(network, 0.25, test=blobs)
    frame = pruned.to_frame()
    assert list(frame.columns) == [
        *("step", "epoch", "density", "train_loss", "test_loss", "test_accuracy"),
        *("kl_mean", "agreement", "accuracy_error"),
    ]
    assert frame["kl_mean"].iloc[0] == 0  # nothing is pruned yet
    assert frame["agreement"].iloc[0] == 1
    assert frame["kl_mean"].iloc[-1] > 0
    before, after = (100 * accuracy for accuracy in frame["test_accuracy"])
    assert repr(pruned).endswith(f"kept, accuracy {before:.2f} → {after:.2f} %)")


def test_progress_counts_all_batches_and_can_cancel(network, blobs):
    seen = []
    cut(network, 0.2, blobs, steps=2, epochs=1, test=blobs, progress=lambda *report: seen.append(report))
    assert seen == [(done, 70) for done in range(71)]

    def cancel(done, _):
        if done == 25:
            raise Cancelled

    state, before = torch.get_rng_state(), flat(network)
    with pytest.raises(Cancelled):
        cut(network, 0.2, blobs, progress=cancel)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(flat(network), before)


@pytest.mark.parametrize(
    ("density", "options", "error", "message"),
    [
        (0, {}, ValueError, r"density must be in \(0, 1\], but is 0: 0.1 keeps a tenth"),
        (1.5, {}, ValueError, r"density must be in \(0, 1\], but is 1.5"),
        (float("nan"), {}, ValueError, r"density must be in \(0, 1\], but is nan"),
        (True, {}, TypeError, r"density must be a number in \(0, 1\], but is True"),
        ({"0": -1.0}, {}, ValueError, r"density of '0' must be in \(0, 1\], but is -1.0"),
        ({}, {}, ValueError, "a density for at least one layer is required, but got an empty mapping"),
        ({"0": 0.1}, {"layers": "0"}, ValueError, "but got both: leave layers out"),
        ({"0": 0.1, "*.weight": 0.2}, {}, ValueError, r"'0.weight' matches both '0' and '\*.weight'"),
        ({"fc": 0.1}, {}, ValueError, "no layer or parameter has the name 'fc'"),
        (0.1, {"layers": "fc"}, ValueError, "no layer or parameter has the name 'fc'"),
        (0.1, {"layers": "1"}, ValueError, "two axes or more is required, but '1.bias', '1.weight' have none"),
        (0.1, {"scope": "all"}, ValueError, "scope must be one of global, layer, but got 'all'"),
        (0.1, {"steps": 3}, ValueError, "steps=3 needs batches to train on"),
        (0.1, {"batches": [], "steps": 0}, ValueError, "steps must be at least 1, but is 0"),
        (0.1, {"batches": [], "epochs": 0}, ValueError, "epochs must be at least 1, but is 0"),
        (0.1, {"batches": []}, ValueError, "at least one batch of one sample is required"),
        (0.1, {"batches": iter([])}, ValueError, "batches is iterated 4 times, but is an iterator"),
        (0.1, {"test": iter([])}, ValueError, "test is iterated 2 times, but is an iterator"),
    ],
)
def test_what_is_refused(network, density, options, error, message):
    with pytest.raises(error, match=message):
        cut(network, density, **options)


def test_weights_that_are_not_finite_or_all_frozen(network, blobs):
    with pytest.raises(ValueError, match="at least one parameter that requires a gradient"):
        cut(copy.deepcopy(network).requires_grad_(False), 0.1, blobs)
    with torch.no_grad():
        network[0].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="weights must be finite"):
        cut(network, 0.1)
