"""The table of a curve says what the curve says, and finds what solving sets out from."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import nbquant as nq
from nbquant.analysis.curves import tabulated_pairs
from nbquant.analysis.live import live_table, mean_of_cells
from nbquant.analysis.statistics import Statistics
from nbquant.analysis.tabulated import curve, solve
from nbquant.analysis.target import Target, targets_of
from nbquant.quantization.methods import family
from nbquant.quantization.rate import lengths_for


def statistics_of(keep):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(50, 40), nn.ReLU(), nn.Linear(40, 30))
    h = {n: torch.randn(p.shape).mul(1.5).exp() for n, p in model.named_parameters()}
    with torch.no_grad():
        for p in model.parameters():
            p[torch.rand(p.shape) >= keep] = 0
    return nq.select(model, h), Statistics.of(nq.select(model, h))


SELECTION, STATISTICS = statistics_of(1.0)
PRUNED, PRUNED_STATISTICS = statistics_of(0.3)


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("coding", ["huffman", "fixed"])
@pytest.mark.parametrize("method", tabulated_pairs(), ids=str)
@pytest.mark.parametrize("statistics", [STATISTICS, PRUNED_STATISTICS], ids=["dense", "pruned"])
def test_table_is_the_curve(statistics, method, coding, per_layer):
    points = curve(family(method[0], weighted=method[1], coding=coding, per_layer=per_layer), statistics)
    group = "2" if per_layer else "all"
    table = live_table(points, group, 320)
    assert (table.method, table.weighted, table.coding) == (*method, coding)
    assert (table.weights, table.source_bits) == (statistics.weights, statistics.source_bits)
    assert table.start[0] == 0
    assert table.start[-1] == len(table.centre) == len(table.count) == len(table.length)
    for i, p in enumerate(points):
        found = p.clusters[group]
        part = slice(table.start[i], table.start[i + 1])
        np.testing.assert_array_equal(table.centre[part], found.codebook.astype(np.float32))
        np.testing.assert_array_equal(table.count[part], found.counts)
        np.testing.assert_array_equal(table.length[part], lengths_for(found.counts, coding))
        if table.threshold is not None:
            np.testing.assert_array_equal(table.threshold[part][:-1], found.threshold.astype(np.float32))
            assert np.isnan(table.threshold[part][-1])
        assert {name: bits[i] for name, bits in table.ledger.items()} == {**p.ledger, "unquantized": 320}
        row = table.ratio[i], table.rate[i], table.loss[i], table.value[i], table.levels[i]
        assert row == (p.compression_ratio, p.rate, p.predicted_loss_increase, p.parameter, p.levels)
    assert list(table.ledger)[-1] == "unquantized"
    if method[0] != "ecsq":
        assert table.threshold is not None
    if method == ("ecsq", True):
        assert table.threshold is None
    assert table.ratio.dtype == table.levels.dtype == np.float64
    assert table.centre.dtype == table.count.dtype == table.length.dtype == np.float32
    assert table.start.dtype == np.int32


POINTS = {m: curve(family(m[0], weighted=m[1]), STATISTICS) for m in tabulated_pairs()}
TABLES = {m: (points, live_table(points, "all", 0)) for m, points in POINTS.items()}


@given(st.sampled_from(tabulated_pairs()), st.sampled_from(["ratio", "rate", "levels"]), st.floats(0, 1))
def test_finds_what_solving_sets_out_from(method, driver, share):
    points, table = TABLES[method]
    values = {"ratio": table.ratio, "rate": table.rate, "levels": table.levels}[driver]
    value = float(values.min() * (values.max() / values.min()) ** share)
    target = Target(driver, value)
    found = table.find(driver, value)
    met = [p for p in points if target.met(p)]
    if not met:
        assert found == -1
        return
    assert target.met(points[found])
    assert points[found].distortion == min(p.distortion for p in met)
    solved = solve(target, points, STATISTICS)
    if method[0] == "kmeans":
        assert solved is points[found]
    # Between that point and the next finer one, or that one itself.
    assert solved.distortion <= points[found].distortion
    assert solved is points[found] or found + 1 < len(points)


@given(st.sampled_from(tabulated_pairs()[2:]), st.floats(-0.2, 1.2))
def test_finds_the_nearest_parameter(method, share):
    points, table = TABLES[method]
    first, last = points[0].parameter, points[-1].parameter
    value = first * (last / first) ** share
    apart = [abs(np.log(p.parameter / value)) for p in points]
    assert apart[table.find(table.parameter, value)] == pytest.approx(min(apart))


def test_equal_losses_go_to_the_least_rate():
    points, table = TABLES["kmeans", True]
    table.loss[3:6] = table.loss[:10].min() / 2
    table.rate[3:6] = [2.0, 1.5, 1.5]
    assert table.find("levels", 10) == 4
    TABLES["kmeans", True] = points, live_table(points, "all", 0)


def test_out_of_reach_is_none():
    table = TABLES["ecsq", True][1]
    assert table.find("ratio", 1e9) == -1
    assert table.find("rate", 1e-9) == -1


def test_drivers_are_those_of_the_method():
    assert targets_of("kmeans") == ("ratio", "rate", "levels")
    with pytest.raises(ValueError, match="lmbda is a parameter of ecsq, but the method is 'uniform'"):
        TABLES["uniform", True][1].find("lmbda", 1.0)
    with pytest.raises(ValueError, match="ratio must be above 0, but is nan"):
        TABLES["uniform", True][1].find("ratio", float("nan"))


def test_groups_are_those_of_the_points():
    with pytest.raises(ValueError, match="group must be one of 'all', but is '0'"):
        live_table(TABLES["ecsq", True][0], "0", 0)
    with pytest.raises(ValueError, match="at least one operating point is required"):
        live_table([], "all", 0)


@pytest.mark.parametrize(("selection", "statistics"), [(SELECTION, STATISTICS), (PRUNED, PRUNED_STATISTICS)])
def test_mean_sensitivity_is_of_the_weights_that_are_coded(selection, statistics):
    for group, members in {"all": selection, **selection.by_layer()}.items():
        kept = members.weight != 0 if statistics.pruned else torch.ones(len(members), dtype=torch.bool)
        right = float(members.sensitivity[kept].double().mean())
        assert mean_of_cells(curve(family("ecsq"), statistics)[0], statistics, group) == pytest.approx(right, rel=1e-9)
