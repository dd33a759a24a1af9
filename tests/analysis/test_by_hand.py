"""A centre moved by hand, against an assignment of the weights themselves."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import nbquant as nq
from nbquant.analysis.by_hand import with_centre_at
from nbquant.analysis.curves import tabulated_pairs
from nbquant.analysis.statistics import Statistics
from nbquant.analysis.tabulated import curve
from nbquant.kernels import reference
from nbquant.quantization.methods import family
from nbquant.quantization.optimal_ecsq import ideal_length
from nbquant.quantization.rate import code_ledger, lengths_for


def selection_of(keep):
    """Few weights, so that each distinct one has a bin of its own; powers of 4 for h, so that each has its own row."""
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 25))
    h = {n: 4.0 ** torch.randint(-3, 4, p.shape) for n, p in model.named_parameters()}
    with torch.no_grad():
        for p in model.parameters():
            p.normal_()
            p[torch.rand(p.shape) >= keep] = 0
    return nq.select(model, h)


SELECTIONS = {keep: selection_of(keep) for keep in (1.0, 0.3)}
STATISTICS = {keep: Statistics.of(s) for keep, s in SELECTIONS.items()}
methods = st.builds(
    lambda m, coding, per_layer: family(m[0], weighted=m[1], coding=coding, per_layer=per_layer),
    st.sampled_from(tabulated_pairs()),
    st.sampled_from(["huffman", "fixed"]),
    st.booleans(),
)


@given(methods, st.sampled_from([1.0, 0.3]), st.floats(0, 0.999), st.floats(0, 0.999), st.floats(-4, 4))
@settings(max_examples=150)
def test_weights_go_where_they_cost_least(method, keep, share, which, value):
    statistics = STATISTICS[keep]
    points = curve(method, statistics)
    point = points[int(share * min(len(points), 50))]
    group, members = "all", SELECTIONS[keep]
    if method.per_layer:
        group = "0" if which < 0.5 else "2"
        members = members.by_layer()[group]
    before = point.clusters[group]
    index = int(which * len(before.codebook))
    found = with_centre_at(point, statistics, group, index, value)

    codebook = before.codebook.copy()
    codebook[index] = value
    order = np.argsort(codebook, kind="stable")
    w, h = members.weight, members.sensitivity
    kept = w != 0 if statistics.pruned else torch.ones(len(w), dtype=torch.bool)
    lmbda = point.parameter if method.method.name == "ecsq" else 0.0
    assignment, sums = reference.assign(
        w,
        h,
        torch.from_numpy(codebook[order]),
        torch.from_numpy(ideal_length(before.counts)[order]),
        lmbda,
        None if method.weighted else float(h[kept].double().mean()),
        statistics.pruned,
    )
    used = sums[:, 0].numpy() > 0
    error = w.double() - torch.from_numpy(codebook[order])[assignment]
    loss = float((0.5 * h.double() * error**2)[assignment >= 0].sum())
    after = found.clusters[group]
    np.testing.assert_array_equal(after.codebook, codebook[order][used])
    np.testing.assert_array_equal(after.counts, sums[used, 0].numpy())
    assert after.loss == pytest.approx(loss, rel=1e-6)

    assert found.quantizer == point.quantizer
    assert all(found.clusters[g] is c for g, c in point.clusters.items() if g != group)
    assert found.predicted_loss_increase == pytest.approx(sum(c.loss for c in found.clusters.values()))
    ledger = statistics.position_ledger
    for c in found.clusters.values():
        ledger += code_ledger(c.counts, lengths_for(c.counts, method.coding), method.coding, 32)
    assert found.ledger == ledger
    if after.threshold is not None:
        assert len(after.threshold) == len(after.codebook) - 1
        cell = np.searchsorted(after.threshold, w[kept].double().numpy())
        np.testing.assert_array_equal(np.bincount(cell, minlength=len(after.codebook)), after.counts)
    else:
        assert method.method.name == "ecsq"
        assert method.weighted


@pytest.mark.parametrize("method", [m for m in tabulated_pairs() if m[0] != "uniform"], ids=str)
@pytest.mark.parametrize("keep", [1.0, 0.3])
def test_a_centre_that_stays_changes_little(method, keep):
    """Nothing at an optimum; uniform cells are not those of the nearest centre."""
    points = curve(family(method[0], weighted=method[1]), STATISTICS[keep])
    for point in points[2::10]:
        book = point.clusters["all"].codebook
        still = with_centre_at(point, STATISTICS[keep], "all", len(book) // 2, float(book[len(book) // 2]))
        assert still.predicted_loss_increase == pytest.approx(point.predicted_loss_increase, rel=0.02)
        assert still.rate == pytest.approx(point.rate, rel=0.02)


def test_worse_where_it_does_not_belong():
    point = curve(family("kmeans"), STATISTICS[1.0])[7]
    book = point.clusters["all"].codebook
    losses = [
        with_centre_at(point, STATISTICS[1.0], "all", 3, float(book[3] + d)).predicted_loss_increase
        for d in (0, 0.1, 0.2)
    ]
    assert losses[0] < losses[1] < losses[2]


def test_a_centre_on_another_takes_its_place():
    point = curve(family("kmeans"), STATISTICS[1.0])[4]
    book = point.clusters["all"].codebook
    found = with_centre_at(point, STATISTICS[1.0], "all", 0, float(book[2]))
    np.testing.assert_array_equal(found.clusters["all"].codebook, book[1:])
    assert found.clusters["all"].counts.sum() == point.clusters["all"].counts.sum()


def test_what_cannot_be_moved_is_refused():
    point = curve(family("ecsq"), STATISTICS[1.0])[20]
    levels = point.levels
    with pytest.raises(ValueError, match=f"index must be 0 to {levels - 1}, but is {levels}"):
        with_centre_at(point, STATISTICS[1.0], "all", levels, 0.0)
    with pytest.raises(ValueError, match="group must be one of 'all', but is 'fc1'"):
        with_centre_at(point, STATISTICS[1.0], "fc1", 0, 0.0)
    with pytest.raises(ValueError, match="must be finite, but got nan"):
        with_centre_at(point, STATISTICS[1.0], "all", 0, float("nan"))
