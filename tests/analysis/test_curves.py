"""Curves against exact fits, and what they cost."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import nbquant as nq
from nbquant.analysis.curves import curves, tabulated_pairs
from nbquant.analysis.operating_point import operating_point
from nbquant.analysis.statistics import Statistics
from nbquant.analysis.tabulated import curve, solve
from nbquant.analysis.target import Target
from nbquant.kernels import dispatch
from nbquant.quantization.clustering import quantize_clusters
from nbquant.quantization.methods import family, family_of
from nbquant.quantization.selection import Selection

EVERY = [
    family(m, weighted=w, coding=coding, per_layer=per_layer)
    for m, w in tabulated_pairs()
    for coding, per_layer in (("huffman", False), ("fixed", False), ("huffman", True))
]
BY_METHOD = pytest.mark.parametrize("method", EVERY, ids=str)


def selection_of(keep):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(120, 60), nn.ReLU(), nn.Linear(60, 100))
    generator = torch.Generator().manual_seed(1)
    h = {n: torch.randn(p.shape, generator=generator).mul(1.5).exp() for n, p in model.named_parameters()}
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.1)
            p[torch.rand(p.shape) >= keep] = 0
    return nq.select(model, h)


@pytest.fixture(scope="module", params=[1.0, 0.2], ids=["dense", "pruned"])
def selection(request):
    return selection_of(request.param)


@pytest.fixture(scope="module")
def statistics(selection):
    return Statistics.of(selection)


@BY_METHOD
def test_points_are_what_a_fit_gives(method, selection, statistics):
    points = curve(method, statistics)
    inner = [p for p in points if 1.5 < p.ledger["payload"] / max(sum(map(_members, p.clusters.values())), 1) < 5]
    for point in inner[:: max(len(inner) // 3, 1)]:
        q = quantize_clusters(point.quantizer, selection, start=point.clusters)
        # ECSQ goes on from the histogram's solution: along J, which is flat in its parts.
        ecsq = method.method.name == "ecsq"
        assert point.rate == pytest.approx(q.rate, rel=0.01)
        assert point.distortion == pytest.approx(q.distortion, rel=0.06 if ecsq else 0.02)
        assert point.levels == pytest.approx(q.levels, abs=5 if ecsq else 2)
        if ecsq and method.coding == "huffman":
            costs = [p.distortion + point.parameter * p.rate for p in (point, q)]
            assert costs[0] == pytest.approx(costs[1], rel=0.01)
        assert point.ledger.get("position_payload") == q.ledger.get("position_payload")
        assert point.compression_ratio == pytest.approx(q.compression_ratio, rel=0.01)
        assert point.predicted_loss_increase == pytest.approx(point.distortion * len(q))
    assert inner


def _members(clusters):
    return int(clusters.counts.sum())


@BY_METHOD
def test_curves_run_from_coarse_to_fine(method, statistics):
    points = curve(method, statistics)
    assert points[0].rate < points[-1].rate
    assert points[0].distortion > 20 * points[-1].distortion
    values = np.array([p.parameter for p in points])
    assert (np.diff(values) > 0).all() if method.parameter.rate_rises else (np.diff(values) < 0).all()
    assert all(p.quantizer == family_of(p.quantizer)(p.parameter) for p in points)


@pytest.mark.parametrize("weighted", [False, True])
def test_grids_of_pruned_selections_lie_where_they_cost_least(weighted):
    model, data = nq.zoo.load("lenet5-fashion-pruned")
    h = nq.sensitivity(model, data.calibration.take(100), "gauss_newton_sampled", damping=0.1, progress=False)
    statistics = Statistics.of(nq.select(model, h))
    assert statistics.pruned
    steps = np.geomspace(0.01, 0.3, 150)
    centred, split = (
        [operating_point(nq.Uniform(step, offset, weighted), statistics) for step in steps] for offset in (0.0, 0.5)
    )
    for ratio in (36, 40, 44, 46, 48, 50):
        found = solve(Target("ratio", ratio), curve(family("uniform", weighted=weighted), statistics), statistics)
        least = [min(p.distortion for p in grid if p.compression_ratio >= ratio) for grid in (centred, split)]
        assert found.distortion < 1.1 * min(least)
        assert found.compression_ratio >= ratio


def test_kmeans_curve_has_every_number_of_levels(statistics):
    points = curve(family("kmeans"), statistics)
    assert [p.levels for p in points] == list(range(1, 257))
    assert all(b.distortion <= a.distortion * (1 + 1e-9) for a, b in pairwise(points))


@pytest.mark.parametrize("method", [family("uniform"), family("kmeans")], ids=str)
def test_single_point_is_the_curves(method, statistics):
    points = curve(method, statistics)
    for i in (len(points) // 4, len(points) // 2):
        single = operating_point(points[i].quantizer, statistics, points[i + 1])
        assert single.rate == pytest.approx(points[i].rate, rel=1e-3)
        assert single.distortion == pytest.approx(points[i].distortion, rel=1e-3)


@pytest.mark.parametrize("weighted", [True, False])
def test_a_single_search_is_nearly_as_good_as_the_curves(weighted, statistics):
    points = curve(family("ecsq", weighted=weighted), statistics)
    for i in (len(points) // 4, len(points) // 2):
        # With all h alike a search from nowhere is quick and finds the optimum; a neighbour would mislead it.
        single = operating_point(points[i].quantizer, statistics, points[i + 1] if weighted else None)
        lagrangians = [p.distortion + p.parameter * _entropy(p) for p in (single, points[i])]
        assert lagrangians[0] <= lagrangians[1] * 1.005


def _entropy(point):
    (clusters,) = point.clusters.values()
    share = clusters.counts / clusters.counts.sum()
    return -float(share @ np.log2(share)) * clusters.counts.sum() / point.weights


def test_cost_does_not_depend_on_the_number_of_weights(monkeypatch, selection):
    statistics = Statistics.of(selection)
    for name in ("assign", "assign_grid", "histogram", "gap_counts"):
        monkeypatch.setattr(dispatch, name, lambda *args: pytest.fail("looked at the weights"))
    for method, weighted in tabulated_pairs():
        points = curve(family(method, weighted=weighted), statistics)
        operating_point(points[3].quantizer, statistics)


def test_more_weights_take_no_more_cells(selection):
    once = Statistics.of(selection).cells(True, True, False)["all"]
    twice = Selection((*selection.tensors, *selection.tensors))
    assert len(Statistics.of(twice).cells(True, True, False)["all"].position) == len(once.position)


def test_cells_are_made_once(selection):
    statistics = Statistics.of(selection)
    assert statistics.cells(True, False, False) is statistics.cells(True, False, False)
    assert statistics.cells(True, False, False) is not statistics.cells(False, False, False)


def test_parts_of_a_selection_need_no_new_pass(selection, statistics):
    part = statistics.part(["0"])
    alone = Statistics.of(selection.by_layer()["0"])
    assert (part.weights, part.zeros, part.bits, part.source_bits) == (
        alone.weights,
        alone.zeros,
        32,
        alone.source_bits,
    )
    assert part.tensors == tuple(t for t in statistics.tensors if t.layer == "0")
    for a, b in zip(curve(family("uniform"), part), curve(family("uniform"), alone), strict=True):
        assert (a.rate, a.distortion) == (b.rate, b.distortion)
    assert statistics.zeros == sum(statistics.zeros_of(layer) for layer in ("0", "2")) == statistics.zeros_of("all")
    assert statistics.zeros == int((selection.weight == 0).sum())


def test_nothing_but_zeros_has_no_curve():
    model = nn.Linear(3, 3)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    statistics = Statistics.of(nq.select(model))
    assert [curve(family(m), statistics) for m in ("kmeans", "uniform", "ecsq")] == [[], [], []]


def test_constant_weights_have_one_point():
    model = nn.Linear(3, 3)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(0.5)
    statistics = Statistics.of(nq.select(model))
    for m in ("kmeans", "uniform", "ecsq"):
        assert {p.levels for p in curve(family(m), statistics)} == {1}
        assert max(p.distortion for p in curve(family(m), statistics)) < 1e-12


def test_table(selection):
    table = nq.curves(selection, [("kmeans", True), ("uniform", False)], coding="fixed")
    assert list(table.columns) == [
        "method",
        "weighted",
        "parameter",
        "value",
        "levels",
        "rate",
        "compression_ratio",
        "distortion",
        "predicted_loss_increase",
    ]
    assert table.groupby("method").size().to_dict() == {"kmeans": 256, "uniform": 64}
    assert set(table.loc[table.method == "uniform", "parameter"]) == {"step"}
    np.testing.assert_allclose(table.rate * table.compression_ratio, 32)
    np.testing.assert_allclose(table.distortion * len(selection), table.predicted_loss_increase)
    of_statistics = curves(Statistics.of(selection), [("kmeans", True)], coding="fixed")
    pd.testing.assert_frame_equal(of_statistics, table[table.method == "kmeans"], check_dtype=False)


def test_unknown_method():
    with pytest.raises(
        ValueError, match="method must be one of kmeans, uniform, ecsq, trellis, feedback, blocks, but got 'lloyd'"
    ):
        family("lloyd")


@pytest.mark.parametrize("option", [{"offset": None}, {"steps": "equal slope", "per_layer": True}])
def test_grids_that_find_their_place_are_what_fit_gives(option):
    model, _ = nq.zoo.load("lenet5-fashion")
    selection = nq.select(model, layers=["conv*", "fc2"])
    statistics = Statistics.of(selection)
    for point in curve(family("uniform", **option), statistics)[20:50:10]:
        fitted = nq.Uniform(point.parameter, **option).fit(selection)
        assert fitted.distortion == pytest.approx(point.distortion, rel=0.02)
        assert fitted.rate == pytest.approx(point.rate, rel=0.02)
    q = nq.fit(selection, method="uniform", rate=4, progress=False, **option)
    assert 3.8 < q.rate <= 4
