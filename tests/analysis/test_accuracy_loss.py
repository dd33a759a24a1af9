"""The smallest result that loses at most so much accuracy."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import nbquant as nq
from nbquant.analysis import accuracy_loss as accuracy
from nbquant.analysis.target import OutOfReachError
from nbquant.models.comparison import Comparison
from nbquant.models.evaluate import Evaluation
from nbquant.quantization.accuracy_loss import AccuracyLoss


def batch(changes):
    """An evaluation of labels that changed so: −1 newly wrong, +1 newly right."""
    d = np.asarray(changes, np.float64)
    error = float(d.std(ddof=1) / math.sqrt(len(d))) if len(d) > 1 else math.nan
    return Evaluation(0.5, 1.0, len(d), len(d), comparison=Comparison(0.0, 0.0, 1.0, float(d.mean()), error))


@given(st.lists(st.lists(st.sampled_from([-1, 0, 0, 0, 1]), min_size=1, max_size=9), min_size=1, max_size=9))
def test_sums_of_batches_are_those_of_all_labels(batches):
    sums = accuracy._Sums()
    for changes in batches:
        sums.add(batch(changes))
    d = np.concatenate(batches).astype(float)
    assert sums.lost == pytest.approx(-d.mean())
    if len(d) > 1:
        assert sums.error == pytest.approx(d.std(ddof=1) / math.sqrt(len(d)), abs=1e-9)


def search(lost_at, at_most, sizes=(200,) * 10, seed=0):
    """Search on made-up results: ``lost_at(ratio)`` of the labels are newly wrong; the labels that were looked at."""
    rng, looked = np.random.default_rng(seed), {}
    order = rng.permutation(sum(sizes))

    def fit(target):
        if target.value > 64:
            raise OutOfReachError("out of reach")
        return Made(target.value)

    def evaluations(quantized):
        wrong = order < lost_at(quantized.compression_ratio) * len(order)
        start = 0
        for size in sizes:
            looked[quantized.compression_ratio] = start + size
            yield batch(-wrong[start : start + size].astype(int))
            start += size

    return accuracy.fit_accuracy(at_most, fit, evaluations, progress=False), looked


@dataclass(frozen=True)
class Made:
    """Stands for a result."""

    compression_ratio: float
    accuracy: AccuracyLoss | None = None


@settings(max_examples=30, deadline=None)
@given(limit_at=st.floats(1.5, 60), at_most=st.sampled_from([0.5, 1.0, 5.0]), seed=st.integers(0, 5))
def test_largest_ratio_that_loses_no_more_is_found_within_one_percent(limit_at, at_most, seed):
    """Against the known answer: the loss of all labels grows with the ratio and reaches the limit at one of them."""
    found, _ = search(lambda ratio: at_most / 100 * ratio / limit_at, at_most, seed=seed)
    assert found.accuracy.lost <= at_most
    # 2,000 labels: the loss moves in steps of 0.05 points.
    assert limit_at * (1 - 0.02) <= found.compression_ratio <= limit_at * (1 + 0.05 / at_most + 1e-9)


def test_tries_that_lose_clearly_more_end_early_and_the_result_is_tested_on_all():
    found, looked = search(lambda ratio: 0.005 if ratio <= 10 else 0.5, 1.0)
    assert 9.9 <= found.compression_ratio <= 10
    assert all(count == 200 for ratio, count in looked.items() if ratio > 10)
    assert found.accuracy.labels == 2000


def test_confidence_is_that_of_the_normal_distribution():
    found, _ = search(lambda ratio: 0.01, 2.0)
    error = math.sqrt(0.01 * 0.99 / 1999) * 100
    assert found.accuracy.lost == pytest.approx(1.0)
    assert found.accuracy.error == pytest.approx(error, rel=1e-3)
    assert found.accuracy.confidence == pytest.approx(0.5 * (1 + math.erf(1.0 / error / math.sqrt(2))), rel=1e-3)
    assert found.compression_ratio == pytest.approx(64, rel=0.011)  # as far as the method reaches
    assert "1.00 ± 0.22 points of accuracy lost on 2,000 labels" in str(found.accuracy)


def test_early_ends_are_wrong_no_more_often_than_said(monkeypatch):
    """A loss just at the limit is taken for more in at most 0.1 % of the tests; here a tenth may be."""
    monkeypatch.setattr(accuracy, "WRONG", 0.1)
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(300):
        sums = accuracy._Sums()
        for _ in range(20):
            sums.add(batch(-(rng.random(200) < 0.05).astype(int)))
            if sums.lost > 0.05 and sums.decides(0.05):
                wrong += 1
                break
    assert wrong <= 30


def test_limit_that_no_ratio_meets_is_told():
    with pytest.raises(ValueError, match="accuracy_loss 1 cannot be met: more is lost even at a ratio of 1"):
        search(lambda ratio: 0.5, 1.0)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))


def data(count=4):
    """Classes that the network itself gives, with noise: so that quantizing costs something."""
    torch.manual_seed(1)
    model, x = network(), torch.randn(100 * count, 8)
    with torch.no_grad():
        target = (model(x) + 0.1 * torch.randn(len(x), 4)).argmax(1)
    return [(x[i : i + 100], target[i : i + 100]) for i in range(0, len(x), 100)]


@pytest.mark.parametrize("method", ["kmeans", "ecsq", "trellis"])
def test_network_loses_no_more_and_would_at_a_higher_ratio(method):
    model, batches = network(), data()
    selection = nq.select(model)
    options = {} if method != "trellis" else {"coding": "arithmetic"}
    found = nq.fit(selection, method, accuracy_loss=3.0, evaluate=(model, batches), progress=False, **options)
    measured = nq.evaluate(found.apply(model), batches, progress=False, reference=model)
    assert found.quantizer.method == method
    assert found.accuracy.lost == pytest.approx(-100 * measured.comparison.accuracy_change)
    assert found.accuracy.lost <= 3.0
    assert found.accuracy.labels == 400
    assert 0 <= found.accuracy.confidence <= 1


def test_function_is_asked_and_one_evaluation_is_enough():
    model, batches = network(), data(1)
    asked = []

    def evaluate(quantized):
        asked.append(quantized.compression_ratio)
        return nq.evaluate(quantized.apply(model), batches, progress=False, reference=model)

    found = nq.fit(nq.select(model), "uniform", accuracy_loss=5.0, evaluate=evaluate, progress=False)
    assert isinstance(found.accuracy, AccuracyLoss)
    assert found.compression_ratio in asked
    tuned = nq.finetune(found, model, batches, epochs=1, progress=False).quantized
    assert tuned.accuracy is None  # of other values


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"accuracy_loss": 1.0}, ValueError, "requires evaluate="),
        ({"evaluate": (network(), [])}, ValueError, "evaluate measures accuracy_loss"),
        ({"accuracy_loss": 1.0, "evaluate": (network(), iter([]))}, ValueError, "more than once, but an iterator came"),
        ({"accuracy_loss": 1.0, "evaluate": network()}, TypeError, r"evaluate must be \(model, batches\)"),
        ({"accuracy_loss": 1.0, "evaluate": 3}, TypeError, r"evaluate must be \(model, batches\)"),
        ({"accuracy_loss": 1.0, "ratio": 8, "evaluate": (network(), [])}, ValueError, "ratio came too"),
        ({"accuracy_loss": -1.0, "evaluate": (network(), [])}, ValueError, "above 0"),
        ({"accuracy_loss": "1", "evaluate": (network(), [])}, TypeError, "must be a number"),
        ({"accuracy_loss": 1.0, "evaluate": (network(), [])}, ValueError, "requires samples"),
        ({"accuracy_loss": 1.0, "evaluate": (network(), []), "codng": "fixed"}, TypeError, "coding"),
        ({"accuracy_loss": 1.0, "evaluate": (network(), []), "file_of": network()}, ValueError, "file_of came too"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        nq.fit(nq.select(network()), "kmeans", progress=False, **arguments)


def test_model_that_does_not_classify_is_refused():
    model = nn.Linear(4, 1)
    batches = [(torch.randn(8, 4), torch.randn(8, 1))]
    with pytest.raises(ValueError, match="requires classes"):
        nq.fit(
            nq.select(model),
            "kmeans",
            accuracy_loss=1.0,
            evaluate=(model, batches, nn.functional.mse_loss),
            progress=False,
        )
