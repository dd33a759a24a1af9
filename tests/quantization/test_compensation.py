"""Columns quantized in turn, held to what the quadratic loss says when it is solved directly."""

import numpy as np
import pytest
import torch

from nbquant.quantization.compensation import problem_of
from nbquant.quantization.moments import LayerMoments


def case(rows=6, d=9, groups=1, bias=False, seed=0, cross=False, samples=60):
    g = torch.Generator().manual_seed(seed)
    mixing = torch.randn(groups, d, d, generator=g, dtype=torch.float64)
    x = torch.randn(groups, samples, d, generator=g, dtype=torch.float64) @ mixing
    if bias:
        x[..., -1] = 1
    now = x + 0.3 * torch.randn(x.shape, generator=g, dtype=torch.float64) * (torch.arange(d) < d - bias)
    now = now if cross else x
    outputs = torch.rand(rows, generator=g, dtype=torch.float64) + 0.1
    moments = LayerMoments(now.transpose(1, 2) @ now / samples, x.transpose(1, 2) @ now / samples, outputs, bias)
    return torch.randn(rows, d, generator=g), moments, x, now


def nearest(step):
    return lambda j, target, weight: (target / step).round() * step


def by_rounding(problem, step):
    return (problem.target / step).round() * step


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_what_is_passed_on_is_the_best_that_the_columns_behind_can_do(groups, bias):
    """Each column is chosen for the minimiser over all columns that are still free."""
    columns, moments, _, _ = case(groups=groups, bias=bias)
    problem = problem_of(columns, moments, 0.02, bias)
    value = torch.full_like(problem.target, float("nan"))
    order = problem.order.tolist()
    inputs = problem.inputs.repeat_interleave(6 // groups, 0)

    def choose(j, target, weight):
        free = order[order.index(j) :]
        fixed = order[: order.index(j)]
        for r in range(6):
            error = problem.target[r, fixed] - value[r, fixed]
            within = inputs[r][free][:, free]
            best = torch.linalg.solve(within, inputs[r][free][:, fixed] @ error)
            assert target[r] == pytest.approx(float(problem.target[r, j] + best[0]), rel=1e-9, abs=1e-9)
            behind = torch.linalg.inv(within)[0, 0]
            assert weight[r] == pytest.approx(float(0.5 * problem.outputs[r] / behind), rel=1e-9)
        value[:, j] = (target * 2).round() / 2
        return value[:, j]

    problem.in_turn(choose, iter(()))
    assert value.isfinite().all()


@pytest.mark.parametrize("d", [9, 130])
@pytest.mark.parametrize("seed", range(3))
def test_error_feedback_beats_rounding(seed, d):
    columns, moments, _, _ = case(d=d, seed=seed, samples=40)
    problem = problem_of(columns, moments, 0.01, False)
    value = torch.zeros_like(problem.target)

    def choose(j, target, weight):
        value[:, j] = nearest(0.5)(j, target, weight)
        return value[:, j]

    problem.in_turn(choose, iter(()))
    assert problem.loss(value) < 0.8 * problem.loss(by_rounding(problem, 0.5))


@pytest.mark.parametrize("d", [9, 130])
@pytest.mark.parametrize("groups", [1, 3])
def test_one_by_one_each_is_best_for_all_others(d, groups):
    columns, moments, _, _ = case(d=d, groups=groups)
    problem = problem_of(columns, moments, 0.01, False)
    value = by_rounding(problem, 0.5)
    losses = [problem.loss(value)]

    def choose(j, target, weight):
        off = problem.target - value
        inputs = problem.inputs.repeat_interleave(6 // groups, 0)
        pull = (off[:, None] @ inputs)[:, 0, j] / inputs[:, j, j]
        assert torch.allclose(target, value[:, j] + pull)
        assert torch.allclose(weight, 0.5 * problem.outputs * inputs[:, j, j])
        value[:, j] = nearest(0.5)(j, target, weight)
        losses.append(problem.loss(value))
        return value[:, j]

    problem.one_by_one(value.clone(), choose, iter(()))
    assert (np.diff(losses) <= 1e-9).all()
    assert losses[-1] < losses[0]


def test_what_a_layer_should_be_once_its_inputs_have_changed():
    """Least squares of w x by ŵ x̂."""
    columns, moments, x, now = case(cross=True)
    problem = problem_of(columns, moments, 1e-12, False)
    expected = torch.linalg.lstsq(now[0], x[0] @ columns.double().T).solution.T
    assert torch.allclose(problem.target, expected, rtol=1e-6, atol=1e-8)


def test_the_loss_is_that_of_the_outputs():
    columns, moments, x, _ = case(bias=True)
    problem = problem_of(columns, moments, 1e-15, True)
    other = columns.double() + 0.1
    off = x[0] @ (columns.double() - other).T
    assert problem.loss(other) == pytest.approx(float(0.5 * (off.square().mean(0) * moments.outputs).sum()), rel=1e-9)


def test_a_bias_comes_last_and_is_not_damped():
    columns, moments, _, _ = case(bias=True)
    problem = problem_of(columns, moments, 0.5, True)
    assert problem.order[-1] == 8
    assert sorted(problem.order.tolist()) == list(range(9))
    assert problem.inputs[0, -1, -1] == moments.inputs[0, -1, -1]
    energy = moments.inputs[0].diagonal()[:-1]
    assert torch.equal(energy[problem.order[:-1]], energy.sort(descending=True).values)
    assert torch.allclose(problem.inputs[0].diagonal()[:-1], energy + 0.5 * energy.mean())


def test_a_bias_that_is_not_chosen_is_left_out():
    columns, moments, _, _ = case(bias=True)
    problem = problem_of(columns[:, :-1], moments, 0.01, False)
    assert problem.target.shape == (6, 8)
    assert problem.inputs.shape == (1, 8, 8)


def test_inputs_that_are_always_zero_leave_weights_where_they_are():
    moments = LayerMoments(torch.zeros(1, 3, 3), torch.zeros(1, 3, 3), torch.ones(2), False)
    columns = torch.randn(2, 3)
    assert torch.allclose(problem_of(columns, moments, 0.01, False).target, columns.double())
