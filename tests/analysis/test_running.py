"""Curves of methods that have to run."""

from itertools import pairwise

import pytest
import torch

from nbquant.analysis import running
from nbquant.analysis.running import RunningCurve, point_of
from nbquant.analysis.statistics import Statistics
from nbquant.analysis.tabulated import solve
from nbquant.analysis.target import Target, targets_of
from nbquant.progress import Cancelled
from nbquant.quantization import methods
from nbquant.quantization.methods import family, family_of
from nbquant.quantization.quantize import quantize
from nbquant.quantization.selection import Selection
from nbquant.quantization.tensor import SelectedTensor

RUNNING = [method.name for method in methods.METHODS if method.curve is None]


def selection_of(keep=1.0):
    g = torch.Generator().manual_seed(0)
    tensors = []
    for i, power in enumerate((1.0, 0.2)):
        w = power * torch.randn(60, 50, generator=g) * (torch.rand(60, 50, generator=g) < keep)
        tensors.append(SelectedTensor(f"l{i}.weight", f"l{i}", w, torch.rand(60, 50, generator=g)))
    return Selection(tuple(tensors))


def points_of(selection, ratio=12.0, known=(), coding="context"):
    trellis = family("trellis", coding=coding, per_layer=False)
    grown = list(RunningCurve(trellis, selection, known).toward(Target("ratio", ratio)))
    return grown[-1] if grown else list(known)


@pytest.mark.parametrize("keep", [1.0, 0.3])
@pytest.mark.parametrize("method", RUNNING)
@pytest.mark.parametrize("coding", ["huffman", "context"])
def test_a_point_is_what_ran(keep, method, coding):
    selection = selection_of(keep)
    quantized = quantize(family(method, coding=coding, per_layer=True)(1e-3), selection)
    point = point_of(quantized, selection)
    assert point.ledger == quantized.ledger
    assert point.rate == quantized.rate
    assert point.compression_ratio == quantized.compression_ratio
    assert point.levels == quantized.levels
    assert point.predicted_loss_increase == pytest.approx(quantized.predicted_loss_increase, rel=1e-9)
    assert list(point.clusters) == list(quantized.codebooks)


@pytest.mark.parametrize("ratio", [6.0, 12.0, 30.0])
def test_points_lie_around_what_is_asked_for(ratio):
    points = points_of(selection_of(), ratio)
    ratios = [p.compression_ratio for p in points]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[0] >= ratio * running.SPAN[1]
    assert ratios[-1] <= ratio * running.SPAN[0]
    near = [r for r in ratios if running.SPAN[0] * ratio <= r <= running.SPAN[1] * ratio]
    assert all(a / b <= running.SPACING**2 for a, b in pairwise(near))
    assert len(points) <= running.MOST_POINTS


@pytest.mark.parametrize("ratio", [6.0, 12.0, 30.0])
def test_the_first_run_meets_the_target_and_is_near_it(ratio):
    w = torch.randn(400, 300, generator=torch.Generator().manual_seed(0))
    selection = Selection((SelectedTensor("w", "w", w),))
    first = next(RunningCurve(family("trellis"), selection).toward(Target("ratio", ratio)))
    assert ratio <= first[0].compression_ratio <= 1.25 * ratio


@pytest.mark.parametrize(("keep", "ratio"), [(1.0, 4.0), (1.0, 12.0), (1.0, 60.0), (0.3, 6.0), (0.3, 60.0)])
def test_number_of_runs_that_are_left_is_known_within_a_factor_of_two(keep, ratio):
    curve, target = RunningCurve(family("trellis"), selection_of(keep)), Target("ratio", ratio)
    told = [curve.left([], target), *(curve.left(points, target) for points in curve.toward(target))]
    actual = range(len(told) - 1, -1, -1)
    assert actual[0] <= 6
    assert all(abs(said - left) <= max(1, left / 2) for said, left in zip(told, actual, strict=True))


def test_what_ran_does_not_run_again():
    selection = selection_of()
    points = points_of(selection)
    assert points_of(selection, known=points) == points
    more = points_of(selection, ratio=40.0, known=points)
    assert {p.parameter for p in points} < {p.parameter for p in more}


def test_a_code_that_cannot_go_further_ends_the_search():
    """A Huffman codeword takes a bit."""
    points = points_of(selection_of(), 60.0, coding="huffman")
    assert max(p.compression_ratio for p in points) < 33
    assert len(points) < running.MOST_POINTS


@pytest.mark.parametrize(("name", "value"), [("ratio", 12.0), ("rate", 2.4)])
def test_a_target_between_points_is_met_and_hardly_exceeded(name, value):
    selection, target = selection_of(), Target(name, value)
    points = points_of(selection)
    found = RunningCurve(family_of(points[0].quantizer), selection, points).fit(target)
    assert target.met(found)
    assert target.is_close(found, 0.03)
    point = solve(target, points, Statistics.of(selection))
    assert point in points
    assert target.met(point)


def test_a_target_beyond_all_points():
    selection = selection_of()
    with pytest.raises(ValueError, match="ratio 500 is met by no point"):
        RunningCurve(family("trellis"), selection, points_of(selection)).fit(Target("ratio", 500.0))


def test_targets():
    assert all(targets_of(method) == ("ratio", "rate") for method in RUNNING)


def test_cancelling():
    def stop(done, total):
        raise Cancelled

    with pytest.raises(Cancelled):
        next(RunningCurve(family("trellis"), selection_of(), progress=stop).toward(Target("ratio", 12.0)))


def test_a_point_at_the_target_is_taken_as_it_is():
    selection = selection_of()
    make = family("trellis", per_layer=False)
    points = [point_of(make(lmbda).fit(selection), selection) for lmbda in (1e-2, 1e-3)]
    found = RunningCurve(make, selection, points).fit(Target("ratio", points[0].compression_ratio))
    assert found.quantizer == points[0].quantizer
