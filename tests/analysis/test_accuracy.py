import numpy as np
import pytest
import torch
from torch import nn

import nbquant as nq
from nbquant.analysis.accuracy import accuracy_by_method, accuracy_by_sensitivity, evaluate_trial
from nbquant.models.batches import Batches
from nbquant.quantization.methods import family


@pytest.fixture(scope="module")
def network():
    """A linear classifier of 8 inputs that is right on all its samples, and its selection."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(8, 4, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.randn(4, 8, generator=generator))
    inputs = torch.randn(200, 8, generator=generator)
    with torch.no_grad():
        images = Batches(inputs, model(inputs).argmax(1), 50)
    h = nq.sensitivity(model, images, damping=0.1, progress=False)
    return model, nq.select(model, sensitivity=h), images


def tune(quantized, model):
    """Stands in for fine-tuning: moves nothing, but is told apart."""
    return quantized.with_values({g: b.value for g, b in quantized.codebooks.items()}, {"epochs": 1})


def test_points_are_what_fitting_and_evaluating_gives(network):
    model, selection, images = network
    rows = accuracy_by_method(model, selection, images, methods=[("kmeans", True)], rates=(6,), progress=False)
    fixed = rows[rows.coding == "fixed"]
    assert fixed.levels.tolist() == [2, 4, 8, 16, 32]  # 32 distinct weights: 64 levels are the same point
    assert fixed.codeword_length.tolist() == [1, 2, 3, 4, 5]
    by_hand = nq.KMeans(4, coding="fixed").fit(selection)
    assert fixed.compression_ratio.iloc[1] == pytest.approx(by_hand.compression_ratio)
    accuracy = nq.evaluate(by_hand.apply(model), images, progress=False).accuracy
    assert fixed.accuracy.iloc[1] == accuracy < 1
    assert fixed.accuracy.iloc[-1] == 1


@pytest.mark.parametrize(
    ("weight", "length"),
    [
        ([1.0, 1, 2, 3], 6 / 4),  # codewords of 1, 2 and 2 bit
        ([0.0, 0, 0, 0, 0, 1, 1, 2], 1),  # five pruned, which have none; of the others two are alike
    ],
)
def test_length_is_the_mean_over_coded_weights_by_hand(weight, length):
    model = nn.Linear(len(weight), 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor(weight))
    quantized = nq.KMeans(3, weighted=False).fit(nq.select(model))
    (trial,) = evaluate_trial(quantized, model, [(torch.zeros(2, len(weight)), torch.tensor([0, 0]))])
    assert trial.codeword_length == length


def test_every_method_has_its_points_before_and_after(network):
    ticks = []
    rows = accuracy_by_method(
        *network, tune, bits=(1, 3), rates=(4, 8), progress=lambda done, total: ticks.append((done, total))
    )
    counts = rows.groupby(["method", "weighted", "coding", "finetuned"]).size()
    assert set(counts) == {2}
    assert len(counts) == 4 * 2 * 2
    before, after = (rows[rows.finetuned == f].reset_index(drop=True) for f in (False, True))
    assert before.drop(columns="finetuned").equals(after.drop(columns="finetuned")), "the stand-in moves nothing"
    assert ticks[-1] == (16, 16)
    assert (rows[rows.coding == "fixed"].levels <= 8).all()


def test_sensitivities_are_compared_at_the_same_rates(network):
    model, selection, images = network
    other = nq.select(model, sensitivity={"weight": torch.ones(4, 8)})
    rows = accuracy_by_sensitivity(model, {"h": selection, "1": other}, images, rates=(6, 8), progress=False)
    assert rows.columns[0] == "sensitivity"
    assert rows.sensitivity.tolist() == ["h", "h", "1", "1"]
    assert rows.coding.unique().tolist() == ["huffman"]
    np.testing.assert_allclose(rows.rate[:2], rows.rate[2:], atol=1)
    with pytest.raises(ValueError, match="must be weighted"):
        accuracy_by_sensitivity(model, {"h": selection}, images, method=family("kmeans", weighted=False))
