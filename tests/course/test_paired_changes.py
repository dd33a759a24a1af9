"""Outcomes and changes of networks: against nq.evaluate, which compares them too."""

import numpy as np
import pytest
import torch

import nbquant as nq
from nbquant.course.outcomes import Outcomes, outcomes, standard_error
from nbquant.course.paired_changes import draw_paired_changes, paired_changes_data, table_paired_changes


@pytest.fixture(scope="module", params=["lenet5-fashion", "gpt-python"])
def pair(request):
    model, data = nq.zoo.load(request.param)
    small = nq.fit(nq.select(model), "uniform", ratio=11, progress=False).apply(model)
    batches = data.test.take(8 if request.param == "gpt-python" else 300)
    found = nq.evaluate(small, batches, progress=False, reference=model)
    return outcomes(model, batches), outcomes(small, batches), found


def test_outcomes_are_those_of_evaluate(pair):
    original, small, found = pair
    assert small.loss.mean() == pytest.approx(found.loss, rel=1e-5)
    assert small.correct.mean() == pytest.approx(found.accuracy)
    assert small.divergence(original).mean() == pytest.approx(found.comparison.kl_mean, rel=1e-4)
    assert (original.divergence(original) == 0).all()


def test_changes_are_those_of_evaluate(pair):
    original, small, found = pair
    (row,) = paired_changes_data(original, {"small": small})
    assert row.accuracy == pytest.approx(100 * found.comparison.accuracy_change)
    assert row.accuracy_error == pytest.approx(100 * found.comparison.accuracy_error)
    assert row.loss == pytest.approx(found.loss - found.reference.loss, rel=1e-4)


def test_standard_error_by_hand():
    assert standard_error(np.array([1.0, 3.0])) == pytest.approx(1.0)


def test_table_and_picture():
    log_p = torch.tensor([[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]]).log()
    worse = torch.tensor([[0.5, 0.5], [0.6, 0.4], [0.9, 0.1]]).log()
    target = torch.tensor([0, 1, 0])
    original = Outcomes(log_p, target)
    rows = paired_changes_data(original, {"same": original, "worse": Outcomes(worse, target)})
    table = table_paired_changes(rows)
    assert table.loc["same"].tolist() == ["+0.0000 ± 0.0000", "+0.00 ± 0.00"]
    assert table.loc["worse", "accuracy [points]"] == "-33.33 ± 33.33"
    left, right = draw_paired_changes(rows).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["same", "worse"]
    assert "points" in right.get_xlabel()
