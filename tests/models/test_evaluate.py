import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from nbquant.models.evaluate import Evaluation, evaluate
from nbquant.progress import Cancelled


def linear_batches(samples=10, sizes=(4, 4, 2), classes=3):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(samples, 5, generator=generator)
    targets = torch.randint(classes, (samples,), generator=generator)
    return list(zip(inputs.split(sizes), targets.split(sizes), strict=True)), inputs, targets


def test_str_says_on_how_many():
    assert str(Evaluation(0.9195, 0.24524, 10_000)) == "91.95 % of 10,000 samples, loss 0.2452"
    assert str(Evaluation(None, 0.5, 1200)) == "loss 0.5000 on 1,200 samples"


@given(st.lists(st.integers(1, 7), min_size=1, max_size=5))
def test_any_cut_into_batches_gives_the_whole(sizes):
    model = nn.Linear(5, 3)
    batches, inputs, targets = linear_batches(sum(sizes), sizes)
    result = evaluate(model, batches, progress=False)
    with torch.no_grad():
        output = model(inputs)
    assert result.samples == sum(sizes)
    assert result.loss == pytest.approx(float(functional.cross_entropy(output, targets)), rel=1e-5)
    assert result.accuracy == pytest.approx(float((output.argmax(1) == targets).double().mean()))


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.rand(())


def test_random_numbers_are_afterwards_as_before():
    loader = DataLoader(TensorDataset(torch.eye(3), torch.arange(3)), batch_size=2, shuffle=True)
    state = torch.get_rng_state()
    evaluate(Noisy(), loader, progress=False)
    assert torch.equal(state, torch.get_rng_state())


class Watching(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.frozen = nn.BatchNorm1d(3).eval()
        self.live = nn.BatchNorm1d(3)
        self.seen = []

    def forward(self, x):
        self.seen.append((self.training, self.live.training, torch.is_grad_enabled()))
        return self.live(x) * self.weight


@pytest.mark.parametrize("fails", [False, True])
def test_eval_mode_inside_and_every_mode_restored(fails):
    model = Watching()
    batches = [(torch.eye(3), torch.arange(3) + (3 if fails else 0))]
    if fails:
        with pytest.raises(IndexError):
            evaluate(model, batches, progress=False)
    else:
        evaluate(model, batches, progress=False)
    assert model.seen == [(False, False, False)]
    assert [m.training for m in (model, model.frozen, model.live)] == [True, False, True]
    assert int(model.live.num_batches_tracked) == 0
    assert torch.is_grad_enabled()


class Pair(nn.Module):
    def forward(self, left, right):
        return torch.stack([left, right], 1)


@pytest.mark.parametrize("container", [tuple, list, lambda pair: {"right": pair[1], "left": pair[0]}])
def test_several_inputs(container):
    pair = (torch.tensor([2.0, 0.0, 1.0]), torch.tensor([1.0, 1.0, 3.0]))
    result = evaluate(Pair(), [(container(pair), torch.tensor([0, 1, 0]))], progress=False)
    assert result.accuracy == pytest.approx(2 / 3)
    assert result.samples == 3


@pytest.mark.parametrize(
    ("output", "target"),
    [
        (torch.rand(4, 3), torch.rand(4, 3)),  # regression
        (torch.rand(4, 1), torch.zeros(4, dtype=torch.int64)),  # one logit
        (torch.rand(4, 3, 5), torch.zeros(4, 5, dtype=torch.int64)),  # a class a pixel
        (torch.rand(4, 3), torch.zeros(4, dtype=torch.bool)),
    ],
)
def test_no_accuracy_where_it_is_no_classification(output, target):
    result = evaluate(nn.Identity(), [(output, target)], loss=lambda out, _: out.mean(), progress=False)
    assert result == Evaluation(None, pytest.approx(float(output.mean())), 4)


def test_any_loss_and_output():
    class Parts(nn.Module):
        def forward(self, x):
            return {"mean": x.mean(1), "all": x}

    inputs, target = torch.rand(4, 3), torch.rand(4)
    result = evaluate(
        Parts(), [(inputs, target)], loss=lambda out, t: functional.mse_loss(out["mean"], t), progress=False
    )
    assert result.loss == pytest.approx(float(((inputs.mean(1) - target) ** 2).mean()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_follows_the_model(dtype):
    model = nn.Linear(5, 3, dtype=dtype)
    batches = [(inputs.to(dtype), targets) for inputs, targets in linear_batches()[0]]
    assert evaluate(model, batches, progress=False).samples == 10


@pytest.mark.parametrize("batches", [[], iter(()), [(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))]])
def test_nothing_to_evaluate_on(batches):
    with pytest.raises(ValueError, match="at least one batch of one sample is required, but got none"):
        evaluate(nn.Identity(), batches, progress=False)


@pytest.mark.parametrize(
    ("loss", "came"),
    [
        (lambda out, t: functional.cross_entropy(out, t, reduction="none"), r"shape \(3,\)"),
        (lambda out, t: out, r"shape \(3, 3\)"),
        (lambda out, t: None, "a NoneType"),
    ],
)
def test_loss_that_is_not_one_number(loss, came):
    with pytest.raises(ValueError, match=f"loss must return one number per batch, but returned {came}: reduce it"):
        evaluate(nn.Identity(), [(torch.eye(3), torch.arange(3))], loss=loss, progress=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_loss_that_is_not_finite(value):
    batches = [(torch.eye(3), torch.arange(3)), (torch.eye(3) * value, torch.arange(3))]
    with pytest.raises(ValueError, match="loss must be finite, but is nan for batch 1"):
        evaluate(nn.Identity(), batches, progress=False)


@pytest.mark.parametrize(("batch", "came"), [(torch.eye(3), "a Tensor"), ((1, 2, 3), "a tuple of 3")])
def test_batch_that_is_no_pair(batch, came):
    with pytest.raises(TypeError, match=rf"pairs \(inputs, targets\), but batch 0 is {came}"):
        evaluate(nn.Identity(), [batch], progress=False)


def test_output_that_is_no_tensor_needs_a_loss():
    class Tupled(nn.Module):
        def forward(self, x):
            return (x,)

    with pytest.raises(TypeError, match="returned a tuple: pass loss="):
        evaluate(Tupled(), [(torch.eye(3), torch.arange(3))], progress=False)


def test_progress_is_told_and_may_cancel():
    calls = []

    def told(done, total):
        calls.append((done, total))
        if done == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        evaluate(nn.Linear(5, 3), linear_batches()[0], progress=told)
    assert calls == [(0, 3), (1, 3), (2, 3)]


def by_hand(z, other, y):
    """KL divergence, agreement and paired error of the labels that count, one at a time."""
    kl, same, change = [], [], []
    for a, b, label in zip(z, other, y, strict=True):
        if label == -100:
            continue
        p, q = b.softmax(0), a.softmax(0)
        kl.append(float(sum(x * (x / w).log() for x, w in zip(p, q, strict=True))))
        same.append(int(a.argmax() == b.argmax()))
        change.append(int(a.argmax() == label) - int(b.argmax() == label))
    mean = sum(change) / len(change)
    error = (sum((c - mean) ** 2 for c in change) / (len(change) - 1) / len(change)) ** 0.5
    return sum(kl) / len(kl), sorted(kl)[-(-99 * len(kl) // 100) - 1], sum(same) / len(same), mean, error


def pair():
    torch.manual_seed(0)
    model, reference = nn.Linear(6, 4), nn.Linear(6, 4)
    with torch.no_grad():
        reference.weight.copy_(model.weight + 0.2 * torch.randn(4, 6))
    x, y = torch.randn(50, 6), torch.randint(4, (50,))
    y[::7] = -100
    return model, reference, x, y


def test_comparison_with_a_reference_equals_sums_by_hand():
    model, reference, x, y = pair()
    found = evaluate(model, [(x[:20], y[:20]), (x[20:], y[20:])], progress=False, reference=reference).comparison
    expected = by_hand(model(x).detach(), reference(x).detach(), y)
    got = (found.kl_mean, found.kl_99, found.agreement, found.accuracy_change, found.accuracy_error)
    assert got == pytest.approx(expected, rel=1e-4)
    assert 0 < found.agreement < 1


def test_a_model_is_its_own_reference():
    model, _, x, y = pair()
    found = evaluate(model, [(x, y)], progress=False, reference=model).comparison
    assert (found.kl_mean, found.kl_99, found.agreement) == (0, 0, 1)
    assert (found.accuracy_change, found.accuracy_error) == (0, 0)


def test_a_reference_of_other_classes_is_refused():
    model, _, x, y = pair()
    with pytest.raises(ValueError, match=r"\(42, 4\), but predicts \(42, 5\)"):
        evaluate(model, [(x, y)], progress=False, reference=nn.Linear(6, 5))


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.embed, self.out = nn.Embedding(11, 8), nn.Linear(8, 11)

    def forward(self, ids):
        return {"logits": self.out(self.embed(ids))}


def next_word(output, labels):
    return functional.cross_entropy(output["logits"].flatten(0, 1), labels.flatten())


@pytest.mark.parametrize("sizes", [(9,), (1,) * 9, (2, 7)])
def test_sequences_count_by_their_labels_however_they_are_batched(sizes):
    model, ids = Words(), torch.randint(11, (9, 5))
    labels = torch.randint(11, (9, 5))
    labels[torch.rand(9, 5) < 0.4] = -100
    batches = list(zip(ids.split(sizes[0] if len(sizes) == 1 else list(sizes)), labels.split(list(sizes)), strict=True))
    found = evaluate(model, batches, next_word, progress=False)
    kept = labels != -100
    z = model(ids)["logits"][kept]
    assert found.loss == pytest.approx(functional.cross_entropy(z, labels[kept]).item(), rel=1e-5)
    assert found.accuracy == pytest.approx((z.argmax(1) == labels[kept]).float().mean().item())
    assert (found.samples, found.labels) == (9, int(kept.sum()))
    assert found.perplexity == pytest.approx(math.exp(found.loss))
    assert found.bits_per_label == pytest.approx(found.loss / math.log(2))
    assert "bit/label" in str(found)
    assert set(found.to_row()) == {"accuracy", "loss", "samples", "labels", "perplexity", "bits_per_label"}


def test_perplexity_is_of_plain_cross_entropy_only():
    model, ids, labels = Words(), torch.randint(11, (9, 5)), torch.randint(11, (9, 5))
    for loss in (
        lambda o, t: functional.cross_entropy(o["logits"].flatten(0, 1), t.flatten(), label_smoothing=0.1),
        lambda o, t: functional.cross_entropy(o["logits"].flatten(0, 1), t.flatten(), weight=torch.arange(11) + 1.0),
        lambda o, t: 2 * next_word(o, t),
        lambda o, t: next_word(o, t) + o["logits"].square().mean(),
    ):
        found = evaluate(model, [(ids, labels)], loss, progress=False)
        assert found.perplexity is None
        assert found.accuracy is not None


def test_metrics_are_means_over_samples():
    model, _, x, y = pair()

    def margin(output, target):
        return (output.max(1).values - output.mean(1)).mean()

    found = evaluate(model, [(x[:40], y[:40]), (x[40:], y[40:])], progress=False, metrics={"margin": margin})
    assert found.metrics["margin"] == pytest.approx(margin(model(x), y).item(), rel=1e-5)
    assert "margin" in str(found)
    assert found.to_row()["margin"] == found.metrics["margin"]
    with pytest.raises(
        ValueError, match=r"metric 'all' must return one number per batch, but returned shape \(50, 4\)"
    ):
        evaluate(model, [(x, y)], progress=False, metrics={"all": lambda output, target: output})


def test_no_label_at_all_is_refused():
    model, _, x, _ = pair()
    with pytest.raises(ValueError, match="at least one label must count, but all of 50 samples are ignored"):
        evaluate(model, [(x, torch.full((50,), -100))], progress=False)


def test_buffers_that_a_forward_pass_changes_are_put_back():
    class Counting(nn.Linear):
        def __init__(self):
            super().__init__(5, 3)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return super().forward(x)

    model, reference = Counting(), Counting()
    batches, _, _ = linear_batches()
    evaluate(model, batches, progress=False, reference=reference)
    assert model.calls == reference.calls == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_inputs_come_in_the_dtype_of_the_model(dtype):
    model = torch.nn.Linear(4, 3).to(dtype)
    batches = [(torch.randn(6, 4), torch.arange(6) % 3)]
    same = [(batches[0][0].to(dtype), batches[0][1])]
    assert evaluate(model, batches, progress=False) == evaluate(model, same, progress=False)
    reference = torch.nn.Linear(4, 3)
    found = evaluate(model, batches, progress=False, reference=reference)
    assert found.reference == evaluate(reference, batches, progress=False)
