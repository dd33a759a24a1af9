import copy
import math

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import nbquant as nq
from nbquant.models.select import select
from nbquant.pipeline.finetune import finetune
from nbquant.progress import Cancelled

SGD = torch.optim.SGD


def quantized_of(model, layers=None, **options):
    return nq.KMeans(**{"levels": 5, "weighted": False, **options}).fit(select(model, layers=layers))


def tune(q, model, batches, **options):
    return finetune(q, model, batches, **{"progress": False, "lr": 1e-2, **options})


def by_hand(q, model, batches, epochs, mean, lr, momentum):
    """Momentum SGD on explicit values, cluster by cluster."""
    network = q.apply(model).eval()
    values = {g: b.value.clone() for g, b in q.codebooks.items()}
    velocity = {g: torch.zeros_like(v) for g, v in values.items()}
    losses = []
    for _ in range(epochs):
        for inputs, target in batches:
            network.zero_grad()
            loss = functional.cross_entropy(network(inputs), target)
            loss.backward()
            losses.append(float(loss.detach()))
            for group, value in values.items():
                for j in range(len(value)):
                    if q.codebooks[group].value[j] == 0:
                        continue
                    total, members = 0.0, 0
                    for name, t in q.tensors.items():
                        if q.group_of(name) == group:
                            chosen = network.get_parameter(name).grad.reshape(-1)[t.assignment == j]
                            total, members = total + float(chosen.sum()), members + len(chosen)
                    velocity[group][j] = momentum * velocity[group][j] + (total / members if mean else total)
                    value[j] -= lr * velocity[group][j]
            with torch.no_grad():
                for name, t in q.tensors.items():
                    padded = torch.cat([torch.zeros(1), values[q.group_of(name)]])
                    network.get_parameter(name).copy_(padded[t.assignment.long() + 1].view(t.shape))
    return values, losses


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("gradient", ["mean", "sum"])
def test_is_momentum_sgd_on_the_values(network, blobs, gradient, per_layer):
    network[3].p = 0.0
    with torch.no_grad():
        network[0].weight[:4] = 0
    q = quantized_of(network, per_layer=per_layer, pinned_zero=True)
    lr = 0.05 if gradient == "mean" else 2e-4
    values, losses = by_hand(q, network, list(blobs), 2, gradient == "mean", lr, 0.9)
    made = tune(
        q, network, list(blobs), epochs=2, gradient=gradient, lr=None, optimizer=lambda p: SGD(p, lr=lr, momentum=0.9)
    )
    for group, value in values.items():
        assert not torch.equal(value, q.codebooks[group].value)
        torch.testing.assert_close(made.quantized.codebooks[group].value, value.sort().values, rtol=1e-4, atol=1e-6)
    assert made.step_loss == pytest.approx(losses, rel=1e-4)


def test_a_step_is_that_of_the_parametrized_network(network, blobs):
    q = quantized_of(network)
    shared = q.parametrize(network).eval()
    optimizer = SGD(shared.parameters(), lr=1e-3)
    functional.cross_entropy(shared(blobs.inputs), blobs.targets).backward()
    optimizer.step()
    network[3].p = 0.0
    whole = [(blobs.inputs, blobs.targets)]
    made = tune(q, network, whole, gradient="sum", lr=1e-3, optimizer=SGD)
    codebook = shared[0].parametrizations.weight[0].codebook
    torch.testing.assert_close(made.quantized.codebook, codebook.detach().sort().values)


def test_mean_is_the_sum_over_the_number_of_members(network, blobs):
    network[3].p = 0.0
    network, blobs = network.double(), blobs.to(dtype=torch.float64)
    q = quantized_of(network)
    moves = {}
    for gradient in ("mean", "sum"):
        made = tune(q, network, [(blobs.inputs, blobs.targets)], gradient=gradient, lr=1e-4, optimizer=SGD)
        moves[gradient] = made.quantized.codebook - q.codebook
    torch.testing.assert_close(moves["mean"] * q.counts, moves["sum"])


@pytest.mark.parametrize("gradient", ["mean", "sum"])
def test_descent_reaches_the_least_squares_optimum(gradient):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(200, 12, generator=generator, dtype=torch.float64)
    model = nn.Linear(12, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.randn(1, 12, generator=generator))
    y = x @ torch.randn(12, 1, generator=generator, dtype=torch.float64)
    q = quantized_of(model, levels=3)
    assert q.levels == 3
    membership = functional.one_hot(q.tensors["weight"].assignment.long(), 3).double()
    optimum = torch.linalg.lstsq(x @ membership, y).solution.flatten()
    made = tune(
        q, model, [(x, y)], epochs=400, gradient=gradient, lr=0.3 if gradient == "mean" else 0.05,
        optimizer=SGD, loss=functional.mse_loss,
    )  # fmt: skip
    torch.testing.assert_close(made.quantized.dequantize()["weight"].flatten(), membership @ optimum)


@pytest.mark.parametrize(
    "optimizer",
    [
        None,
        SGD,
        lambda p, lr: torch.optim.AdamW(p, lr=lr, weight_decay=0.3),
        lambda p, lr: SGD(p, lr=lr, momentum=0.9, weight_decay=0.3),
        lambda p, lr: torch.optim.LBFGS(p, lr=lr, max_iter=3),
        lambda p, lr: (made := SGD(p, lr=lr), torch.optim.lr_scheduler.ExponentialLR(made, 0.9)),
    ],
)
def test_any_optimizer_and_zero_stays_zero(network, blobs, optimizer):
    with torch.no_grad():
        network[4].weight[:, :8] = 0
    q = quantized_of(network, pinned_zero=True)
    assert (q.codebook == 0).sum() == 1
    made = tune(q, network, blobs, epochs=2, optimizer=optimizer)
    before, after = q.dequantize(), made.quantized.dequantize()
    assert ((before["4.weight"] == 0) == (after["4.weight"] == 0)).all()
    assert not torch.equal(before["4.weight"], after["4.weight"])
    assert made.step_loss[-1] < made.step_loss[0]


def test_schedule_is_followed(network, blobs):
    rates = []

    def optimizer(parameters):
        made = SGD(parameters, lr=1.0)
        made.register_step_post_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
        return made, torch.optim.lr_scheduler.LambdaLR(made, lambda step: 1e-4 / (1 + step))

    tune(quantized_of(network), network, blobs.take(72), optimizer=optimizer, lr=None)
    assert rates == pytest.approx([1e-4, 1e-4 / 2, 1e-4 / 3])


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("gradient", ["mean", "sum"])
def test_optimizer_unless_told_otherwise(network, blobs, gradient, known):
    network[3].p = 0.0
    q = quantized_of(network)
    few = list(blobs)[:4]

    def by_lambda(parameters):
        made = SGD(parameters, lr=0.03 if gradient == "mean" else 0.03 * len(q.codebook) / len(q), momentum=0.9)
        return made, torch.optim.lr_scheduler.LambdaLR(made, lambda step: 1 - step / 4 if known else 1)

    class Sizeless:
        def __iter__(self):
            return iter(few)

    one = tune(q, network, few, gradient=gradient, lr=None, optimizer=by_lambda)
    two = tune(q, network, few if known else Sizeless(), gradient=gradient, lr=None)
    assert torch.equal(one.quantized.codebook, two.quantized.codebook)


def test_pruned_weights_stay_pruned(network, blobs):
    with torch.no_grad():
        network[0].weight[:12] = 0
    q = quantized_of(network, layers="0")
    made = tune(q, network, blobs, optimizer=lambda p, lr: torch.optim.AdamW(p, lr=lr, weight_decay=1.0))
    assert not made.quantized.dequantize()["0.weight"][:12].any()
    assert all(torch.equal(t.assignment, q.tensors[name].assignment) for name, t in made.quantized.tensors.items())
    for part in ("position_payload", "position_table"):
        assert made.quantized.ledger[part] == q.ledger[part]


def test_what_was_not_quantized_and_the_users_model_stay(network, blobs):
    q = quantized_of(network, layers=["0"])
    before, modes = copy.deepcopy(network.state_dict()), [m.training for m in network.modules()]
    state = torch.get_rng_state()
    assert network.training
    made = tune(q, network, blobs, epochs=2)
    assert torch.equal(state, torch.get_rng_state())
    assert modes == [m.training for m in network.modules()]
    assert all(torch.equal(v, before[name]) for name, v in network.state_dict().items())
    assert all(p.grad is None or p.requires_grad for p in network.parameters())
    assert set(made.quantized.tensors) == {"0.weight", "0.bias"}


class Watched(nn.Module):
    """Tells in which modes it was run."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.seen = inner, set()

    def forward(self, x):
        self.seen.add((self.inner[1].training, self.inner[3].training, torch.is_grad_enabled()))
        return self.inner(x)

    def __deepcopy__(self, memo):
        copied = Watched(copy.deepcopy(self.inner, memo))
        copied.seen = self.seen
        return copied


def test_norms_are_in_eval_mode_and_dropout_is_not(network, blobs):
    model = Watched(network.eval())
    statistics = copy.deepcopy(network[1].state_dict())
    tune(quantized_of(model), model, blobs, validation=blobs)
    assert model.seen == {(False, True, True), (False, False, False)}
    assert all(torch.equal(v, statistics[name]) for name, v in network[1].state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, "both"])
def test_the_last_record_is_of_what_comes_back(network, blobs, dtype, stored):
    source = copy.deepcopy(network).to(torch.bfloat16 if stored == torch.bfloat16 else torch.float32)
    if stored == "both":
        source[0].bfloat16()
    model, data = copy.deepcopy(network).to(dtype), blobs.to(dtype=dtype)
    made = tune(quantized_of(source), model, data, epochs=2, validation=data)
    found = nq.evaluate(made.quantized.apply(model), data, progress=False)
    last = made.history[-1]
    assert (last.validation_loss, last.validation_accuracy) == (found.loss, found.accuracy)
    assert made.quantized.codebook.dtype == source[4].weight.dtype


def test_bfloat16_moves_further_than_its_own_rounding_would_let_it(network, blobs):
    model, data = copy.deepcopy(network).bfloat16(), blobs.to(dtype=torch.bfloat16)
    q = quantized_of(model)
    made = tune(q, model, data, epochs=8, lr=1e-4, optimizer=torch.optim.Adam)  # a step is below half a unit
    assert not torch.equal(made.quantized.codebook, q.codebook)


def test_history(network, blobs):
    made = tune(quantized_of(network), network, blobs, epochs=3, validation=blobs)
    assert [e.epoch for e in made.history] == [0, 1, 2, 3]
    assert made.history[0].train_loss is None
    assert len(made.step_loss) == 30
    for number, epoch in enumerate(made.history[1:]):
        assert epoch.train_loss == pytest.approx(sum(made.step_loss[10 * number : 10 * number + 10]) / 10)
    assert made.history[3].validation_loss < made.history[0].validation_loss
    frame = made.to_frame()
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == ["epoch", "train_loss", "validation_loss", "validation_accuracy", "kept"]
    assert frame["kept"].tolist() == [False, False, False, True]
    assert math.isnan(frame["train_loss"][0])
    assert made.kept == 3
    assert repr(made).endswith("epoch 3 of 3)")
    assert made.quantized.finetuned == {
        "epochs": 3, "gradient": "mean", "optimizer": "SGD", "lr": 0.01, "seed": 0,
    }  # fmt: skip
    assert math.isnan(made.quantized.distortion)


def test_without_validation_there_is_only_the_training_loss(network, blobs):
    made = tune(quantized_of(network), network, blobs)
    assert [(e.validation_loss, e.validation_accuracy) for e in made.history] == [(None, None)] * 2
    assert made.to_frame()["validation_loss"].isna().all()


@pytest.mark.parametrize("keep_best", [True, "loss", "accuracy"])
def test_the_best_epoch_is_kept(network, blobs, keep_best):
    q = quantized_of(network)

    def optimizer(parameters):  # the last epoch climbs the loss: a large rate alone may land anywhere, on the best too
        made = SGD(parameters, lr=1.0)
        return made, torch.optim.lr_scheduler.LambdaLR(made, lambda step: 0.1 if step < 20 else -4.0)

    made = tune(q, network, blobs, epochs=3, optimizer=optimizer, lr=None, validation=blobs, keep_best=keep_best)
    if keep_best == "accuracy":
        best = max(made.history, key=lambda e: (e.validation_accuracy, -e.validation_loss))
    else:
        best = min(made.history, key=lambda e: e.validation_loss)
    assert made.kept == best.epoch < 3
    found = nq.evaluate(made.quantized.apply(network), blobs, progress=False)
    assert (found.loss, found.accuracy) == (best.validation_loss, best.validation_accuracy)


def test_where_nothing_is_better_all_stays_as_it_was(network, blobs):
    q = quantized_of(network)
    made = tune(q, network, blobs, optimizer=lambda p: SGD(p, lr=5.0), lr=None, validation=blobs, keep_best=True)
    assert made.kept == 0
    assert made.quantized is q


def test_the_same_seed_gives_the_same_values(network, blobs):
    q = quantized_of(network)
    loader = DataLoader(TensorDataset(blobs.inputs, blobs.targets), batch_size=24, shuffle=True)
    for batches in (blobs, loader):
        one, two, other = (tune(q, network, batches, seed=seed).quantized.codebook for seed in (4, 4, 5))
        assert torch.equal(one, two)
        assert not torch.equal(one, other)


def test_the_order_of_batches_is_drawn_anew_but_of_nothing_else(network, blobs):
    network[3].p = 0.0
    q = quantized_of(network)
    one, other = (tune(q, network, list(blobs), seed=seed).quantized.codebook for seed in (4, 5))
    assert torch.equal(one, other)
    assert not torch.equal(one, tune(q, network, blobs, seed=4).quantized.codebook)


def test_recurrent_layers_and_inputs_by_name():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.out = nn.GRU(3, 6, batch_first=True), nn.Linear(6, 2)

        def forward(self, x, scale):
            return self.out(self.rnn(x * scale)[0][:, -1])

    torch.manual_seed(0)
    model = Last()
    x = torch.randn(30, 4, 3)
    batches = [({"x": x, "scale": torch.tensor(2.0)}, (x.sum((1, 2)) > 0).long())]
    made = tune(quantized_of(model), model, batches, epochs=20)
    assert made.step_loss[-1] < made.step_loss[0]
    assert made.history[1].train_loss == made.step_loss[0]


def test_tied_weights_have_one_value(blobs):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False)
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.two(self.one(x).relu())

    torch.manual_seed(0)
    model = Tied()
    q = quantized_of(model)
    assert list(q.tensors) == ["one.weight"]
    values, losses = by_hand(q, model, list(blobs), 1, True, 0.1, 0.0)
    made = tune(q, model, list(blobs), optimizer=SGD, lr=0.1)
    torch.testing.assert_close(made.quantized.codebook, values["all"].sort().values)
    assert made.step_loss == pytest.approx(losses)


def test_of_a_checkpoint(network, blobs, tmp_path):
    from safetensors.torch import save_file

    save_file(network.state_dict(), tmp_path / "net.safetensors")
    q = nq.KMeans(levels=5, weighted=False).fit(select(tmp_path / "net.safetensors"))
    made = tune(q, network, blobs, validation=blobs)
    assert made.history[1].validation_loss < made.history[0].validation_loss


@pytest.mark.parametrize("known", [True, False])
def test_progress_counts_all_batches_and_can_cancel(network, blobs, known):
    q = quantized_of(network)
    seen = []
    batches = blobs if known else DataLoader(list(zip(blobs.inputs, blobs.targets, strict=True)), 24)
    total = 2 * 10 + 3 * 10 if known else None

    class Sizeless:
        def __iter__(self):
            return iter(batches)

    given = batches if known else Sizeless()
    tune(q, network, given, epochs=2, validation=blobs, progress=lambda *report: seen.append(report))
    assert seen[0] == (0, total)
    assert seen[-1][0] in (49, 50)
    if known:
        assert seen == [(done, 50) for done in range(51)]

    def cancel(done, _):
        if done == 13:
            raise Cancelled

    before = copy.deepcopy(network.state_dict())
    state = torch.get_rng_state()
    with pytest.raises(Cancelled):
        tune(q, network, given, epochs=2, progress=cancel)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(v, before[name]) for name, v in network.state_dict().items())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"gradient": "max"}, ValueError, "gradient must be one of mean, sum, but got 'max'"),
        ({"epochs": 0}, ValueError, "epochs must be at least 1, but is 0"),
        ({"epochs": 1.5}, TypeError, "epochs must be a whole number, but is 1.5"),
        ({"keep_best": True}, ValueError, "keep_best needs validation batches"),
        ({"keep_best": "f1", "validation": []}, ValueError, 'keep_best must be True, False, "loss" or "accuracy"'),
        ({"validation": iter([])}, ValueError, "validation is iterated 2 times, but is an iterator"),
        ({"batches": iter([]), "epochs": 2}, ValueError, "batches is iterated 2 times, but is an iterator"),
        ({"batches": []}, ValueError, "at least one batch of one sample is required, but epoch 1 has none"),
        ({"batches": 3}, TypeError, r"batches must yield pairs \(inputs, targets\), but is a int"),
        ({"batches": [torch.zeros(3, 10)]}, TypeError, "batches must be pairs .*, but batch 0 is a Tensor"),
        ({"loss": lambda output, target: output}, ValueError, r"loss must return one number .* shape \(24, 3\)"),
        ({"loss": lambda output, target: 1.0}, ValueError, "loss must return one number .* without a gradient"),
        ({"optimizer": lambda p, lr: None}, TypeError, "optimizer must make a torch optimizer .* made a NoneType"),
        ({"optimizer": SGD, "lr": 1e9}, ValueError, r"loss must stay finite, but is .* lower lr \(it is 1e\+09\)"),
    ],
)
def test_what_is_refused(network, blobs, options, error, message):
    options = dict(options)
    with pytest.raises(error, match=message):
        tune(quantized_of(network), network, options.pop("batches", blobs), **options)


def test_values_that_the_last_step_made_infinite(network, blobs):
    with pytest.raises(ValueError, match=r"values must stay finite, but do not in epoch 1: lower lr \(it is inf\)"):
        tune(quantized_of(network), network, [(blobs.inputs, blobs.targets)], optimizer=SGD, lr=math.inf)


def test_a_model_that_does_not_fit_or_has_nothing_to_move(network, blobs):
    q = quantized_of(network)
    with pytest.raises(ValueError, match="the model must have the parameter"):
        tune(q, nn.Linear(3, 3), blobs)
    with torch.no_grad():
        network[0].weight.zero_()
    with pytest.raises(ValueError, match="at least one value other than zero is required, but all are zero"):
        tune(quantized_of(network, layers="0.weight"), network, blobs)


def test_no_accuracy_to_choose_by():
    model = nn.Linear(3, 1)
    batches = [(torch.randn(8, 3), torch.randn(8, 1))]
    with pytest.raises(ValueError, match='keep_best="accuracy" needs a network that classifies'):
        tune(quantized_of(model), model, batches, loss=functional.mse_loss, validation=batches, keep_best="accuracy")
    with pytest.raises(TypeError, match="without loss=… the model must return a tensor"):
        tune(quantized_of(pair := nn.Sequential(model, Pair())), pair, batches)


class Pair(nn.Module):
    def forward(self, x):
        return x, x


def test_a_narrow_model_takes_wide_inputs():
    model = torch.nn.Linear(4, 3).to(torch.bfloat16)
    quantized = nq.Uniform(0.2).fit(nq.select(model))
    batches = [(torch.randn(6, 4), torch.randn(6, 3))]
    found = nq.finetune(quantized, model, batches, loss=torch.nn.functional.mse_loss, progress=False)
    assert all(value.dtype == torch.bfloat16 for value in found.quantized.apply(model).state_dict().values())
