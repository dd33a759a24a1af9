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
    with pytest.raises(ValueError, match="at least one batch of one sample is required, but none came"):
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
    with pytest.raises(ValueError, match=f"loss must return one number a batch, but returned {came}: reduce it"):
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
