import math

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import nbquant as nq
from nbquant.models.batches import Batches
from tests.benchmarks.reproduction import PAPER, Question, beside_paper, largest, operating_points


@given(st.integers(1, 200), st.data())
def test_largest_of_a_falling_curve_is_found_from_anywhere(count, data):
    last = data.draw(st.integers(-1, count - 1))
    start = data.draw(st.integers(-3, count + 3))
    seen = []

    def holds(i):
        seen.append(i)
        return i <= last

    assert largest(holds, count, start) == (None if last < 0 else last)
    assert all(0 <= i < count for i in seen)
    assert len(seen) == len(set(seen)), "none is looked at twice"
    assert len(seen) <= 3 + 2 * math.log2(2 + abs(min(max(start, 0), count - 1) - last))


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(0, 11))
def test_on_any_curve_it_holds_there_and_not_one_further(curve, start):
    found = largest(lambda i: curve[i], len(curve), start)
    if found is None:
        assert not curve[0]
    else:
        assert curve[found]
        assert found == len(curve) - 1 or not curve[found + 1]


@pytest.fixture(scope="module")
def network():
    """A linear classifier that is right on nearly all of its samples."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 10, bias=False), nn.BatchNorm1d(10)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(10, 30, generator=generator))
    inputs = torch.randn(600, 30, generator=generator)
    with torch.no_grad():
        targets = model(inputs).argmax(1)
    return model, Batches(inputs[:300], targets[:300], 100), Batches(inputs[300:], targets[300:], 100)


def question(network, tune=None, lost=0.1):
    model, choosing, reporting = network
    h = nq.sensitivity(model, choosing, damping=0.1, progress=False)
    selection = nq.select(model, sensitivity=h, layers="0")
    return Question(model, selection, choosing, reporting, tune, lost)


def test_chosen_ratio_holds_and_the_next_does_not(network):
    asked = question(network)
    (row,) = operating_points(asked, [("uniform", False)], spacing=1.1, progress=False).to_dict("records")
    tried = {}
    for ratio in (1.1**i for i in range(1, 30)):
        try:
            q = nq.fit(asked.selection, "uniform", ratio=ratio, weighted=False, progress=False)
        except ValueError:
            break
        tried[ratio] = q.compression_ratio, nq.evaluate(q.apply(asked.model), asked.choosing, progress=False).accuracy
    ratios = sorted(tried)
    chosen = next(i for i, r in enumerate(ratios) if tried[r][0] == row["weights_ratio"])
    assert tried[ratios[chosen]][1] >= 0.9
    assert tried[ratios[chosen]][1] == pytest.approx(1 - row["chosen_lost"])
    assert tried[ratios[chosen + 1]][1] < 0.9


def test_row_is_of_a_file(network, tmp_path):
    asked = question(network)
    (row,) = operating_points(asked, [("ecsq", True)], progress=False).to_dict("records")
    q = nq.fit(asked.selection, "ecsq", ratio=row["weights_ratio"], progress=False)
    parts = ("payload", "code_table", "codebook", "unquantized", "header", "container", "padding")
    assert sum(row[part] for part in parts) == 8 * row["bytes"]
    assert row["unquantized"] == q.unselected_bits == (4 * 10) * 32 + 64
    assert row["ratio"] == pytest.approx((300 * 32 + q.unselected_bits) / (8 * row["bytes"]))
    accuracy = nq.evaluate(q.apply(asked.model), asked.reporting, progress=False).accuracy
    assert row["accuracy"] == pytest.approx(accuracy, abs=0.02)
    assert row["lost"] == pytest.approx(1 - row["accuracy"])


def test_fine_tuning_is_tried_on_the_chosen_images_too(network):
    calls = []

    def tune(quantized, model):
        calls.append(quantized.compression_ratio)
        return quantized.with_values({g: b.value for g, b in quantized.codebooks.items()}, {"epochs": 1})

    methods = [("kmeans", True), ("ecsq", True)]
    rows = operating_points(question(network, tune), methods, progress=False)
    assert rows.finetuned.tolist() == [False, True] * 2
    assert len(calls) >= 2
    # This tuning moves nothing, so that the same ratio holds.
    assert rows.weights_ratio[0] == rows.weights_ratio[1]
    assert rows.chosen_lost[0] == rows.chosen_lost[1] <= 0.1


def test_no_row_where_nothing_holds(network):
    asked = question(network, lost=-0.1)  # more than all would have to be right
    assert operating_points(asked, [("uniform", True)], progress=False).empty


def test_spacing_must_be_above_one(network):
    with pytest.raises(ValueError, match="spacing must be above 1, but got 1"):
        operating_points(question(network), spacing=1.0, progress=False)


def test_paper_stands_beside_what_compares_with_it():
    rows = pd.DataFrame(
        {
            "method": ["kmeans", "kmeans", "uniform", "uniform"],
            "weighted": [True, True, False, True],
            "finetuned": [False, True, True, True],
        }
    )
    found = beside_paper(rows, "LeNet5, MNIST")
    assert found.paper_ratio.isna().tolist() == [True, False, False, True]
    assert found.paper_ratio.dropna().tolist() == [47.16, 51.25]
    assert found.paper_accuracy.dropna().tolist() == [99.27, 99.28]
    with pytest.raises(ValueError, match=r"one of 'LeNet5, MNIST', .* but got 'LeNet'"):
        beside_paper(rows, "LeNet")


def test_paper_s_bits_add_up():
    """Pruned LeNet5 keeps 8.55 %: at 32 bit a weight and 4.95 a position that is 10.13×; values follow from ratios."""
    q, positions = 0.0855, 4.95
    assert 32 / (q * (32 + positions)) == pytest.approx(PAPER["LeNet5, MNIST"]["pruned"][1], abs=0.01)
    for key, bits in {("kmeans", False): 3.45, ("kmeans", True): 2.99, ("uniform", False): 2.36}.items():
        assert 32 / PAPER["LeNet5, MNIST"][key][1] / q - positions == pytest.approx(bits, abs=0.01)
