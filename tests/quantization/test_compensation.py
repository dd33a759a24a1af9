"""Columns quantized in turn, held to what the quadratic loss says when it is solved directly."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from nbquant.kernels import dispatch
from nbquant.quantization import along as along_module
from nbquant.quantization import compensation as module
from nbquant.quantization.along import along_problem, quantize_along
from nbquant.quantization.compensation import problem_of, quantize_in_turn, sweep, upper_factor, values_of
from nbquant.quantization.moments import LayerMoments, Shift
from nbquant.quantization.paths import first_bits

STEP = 0.2


def case(rows=6, d=9, groups=1, bias=False, seed=0, samples=600, widths=None):
    """Weights of each row, a layer's moments, and the inputs that they are of."""
    g = torch.Generator().manual_seed(seed)
    mixing = torch.randn(groups, d, d, generator=g)
    x = torch.randn(groups, samples, d, generator=g) @ mixing + 0.5
    second, widths = x.mT @ x / samples, widths or [d]
    edges = np.cumsum([0, *widths])
    blocks = tuple(second[:, a:b, a:b] for a, b in pairwise(edges))
    outputs = torch.rand(rows, generator=g) + 0.1
    moments = LayerMoments(blocks, x.mean(1) if bias else None, outputs, samples)
    free = torch.randn(rows, generator=g) if bias else None
    return torch.randn(rows, d, generator=g), free, moments, x


def price(target, lmbda=1e-4):
    return lmbda * first_bits(float(target.abs().mean()), STEP).astype(np.float64)


def apart(problem):
    """Integers of the same paths without any compensation."""
    integers = np.zeros((problem.target.shape[1], problem.outputs.numel()), np.int32)
    groups, d, rows = problem.target.shape
    dispatch.compensate(
        problem.target, torch.zeros_like(problem.target), torch.eye(d).expand(groups, d, d),
        torch.ones(groups, d), 0.5 * problem.outputs, torch.zeros(groups, d, rows), STEP, price(problem.target),
        np.arange(d), 1 << 20, np.zeros((0, 0), np.uint8), integers,
    )  # fmt: skip
    return values_of(problem, integers, STEP)


def test_the_factor_is_upper_triangular_and_gives_the_matrix_again():
    g = torch.Generator().manual_seed(0)
    root = torch.randn(2, 5, 7, generator=g).double()
    matrix = root @ root.mT
    factor = upper_factor(matrix)
    assert torch.allclose(factor @ factor.mT, matrix)
    assert not factor.tril(-1).any()
    assert (factor.diagonal(dim1=1, dim2=2) > 0).all()


@pytest.mark.parametrize("bias", [False, True])
def test_the_cost_of_a_column_is_that_of_its_error_with_all_later_ones_at_their_best(bias):
    rows, free, moments, _ = case(bias=bias)
    problem = problem_of(rows, free, moments, 0.02, 0.0)
    inputs = moments.inputs[0] if bias else problem.blocks[0].inputs[0].double()
    if bias:  # with the damping, in the order of the columns, and the bias last
        order = [*problem.blocks[0].columns, 9]
        ridge = (0.02 + module.NOISE * 9 / 600) * moments.energy.double().mean()
        inputs = (inputs + torch.diag(torch.tensor([*[float(ridge)] * 9, 0.0])))[order][:, order]
    for j, column in enumerate(problem.blocks[0].columns):
        cost = 1 / torch.linalg.inv(inputs[j:, j:])[0, 0]
        assert float(problem.curvature[0, column]) == pytest.approx(float(cost), rel=1e-3)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("d", [9, 130])
def test_error_feedback_beats_paths_alone(groups, bias, d):
    rows, free, moments, _ = case(groups=groups, bias=bias, d=d)
    problem = problem_of(rows, free, moments, 0.01, 0.0)
    integers = np.zeros((d, 6), np.int32)
    quantize_in_turn(problem, STEP, price(problem.target), 1 << 20, integers, iter(()))
    found = problem.loss(values_of(problem, integers, STEP))
    assert found < 0.8 * problem.loss(apart(problem))


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("d", [9, 130])
def test_loss_and_price_never_rise_in_a_sweep(groups, d):
    rows, free, moments, _ = case(groups=groups, d=d)
    problem = problem_of(rows, free, moments, 0.01, 0.0)
    integers = np.zeros((d, 6), np.int32)
    free_of_charge = np.zeros((2, 1, 3, 2))
    losses = [problem.loss(values_of(problem, integers, STEP))]
    for _ in range(3):
        sweep(problem, STEP, free_of_charge, 1 << 20, integers, iter(()))
        losses.append(problem.loss(values_of(problem, integers, STEP)))
    assert losses[1] < losses[0]
    assert (np.diff(losses) <= 1e-5 * losses[0]).all()


def test_the_loss_is_that_of_the_outputs():
    rows, free, moments, x = case(bias=True)
    problem = problem_of(rows, free, moments, 1e-9, 0.0)
    value = problem.target + 0.1 * torch.arange(9.0)[:, None]
    off = x[0] @ (problem.target - value)[0]
    off = off - off.mean(0)  # the bias is at its best
    ridge = module.NOISE * 9 / 600 * float(moments.energy.mean())
    damped = 0.5 * ridge * float(((value - problem.target).square().sum((0, 1)) * moments.outputs).sum())
    expected = 0.5 * float((off.square().mean(0) * moments.outputs).sum()) + damped
    assert problem.loss(value) == pytest.approx(expected, rel=1e-3)
    error = x[0] @ problem.target[0] + free - x[0] @ value[0] - problem.bias_target(value)
    assert float(error.mean(0).abs().max()) < 1e-4


def test_blocks_are_layers_of_their_own():
    rows, _, moments, _ = case(d=10, widths=[4, 6])
    problem = problem_of(rows, None, moments, 0.01, 0.0)
    integers = np.zeros((10, 6), np.int32)
    quantize_in_turn(problem, STEP, price(problem.target), 1 << 20, integers, iter(()))
    first = LayerMoments(moments.blocks[:1], None, moments.outputs, 600)
    ridge = (0.01 + module.NOISE * 6 / 600) * moments.energy.mean()
    same = (ridge / first.energy.mean() - module.NOISE * 4 / 600).item()
    alone = problem_of(rows[:, :4], None, first, same, 0.0)
    found = np.zeros((4, 6), np.int32)
    quantize_in_turn(alone, STEP, price(problem.target), 1 << 20, found, iter(()))
    np.testing.assert_array_equal(integers[:4], found)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("groups", [1, 6])
def test_outputs_lack_less_once_targets_compensate_a_shift(bias, groups):
    rows, free, moments, x = case(bias=bias, groups=groups)
    now = x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)) + 0.2
    weights = rows.reshape(groups, -1, 9)
    missing = x @ weights.mT - now @ weights.mT
    shift = Shift(now, missing, x.mean(1), x.square().mean(1))
    kept = rows.clone(), None if free is None else free.clone()
    problem = problem_of(rows, free, moments, 0.01, 0.0, shift)
    found = x @ weights.mT - now @ problem.target
    if free is not None:
        found = found + (free.reshape(groups, 1, -1) - problem.bias[:, None])
        assert float(found.mean(1).abs().max()) < 1e-4
    assert float(found.square().mean()) < (0.8 if bias else 0.95) * float(missing.square().mean())
    assert torch.equal(rows, kept[0])
    assert free is None or torch.equal(free, kept[1])


def test_inputs_that_have_not_changed_change_no_target():
    rows, free, moments, x = case(bias=True)
    shift = Shift(x, torch.zeros(1, 600, 6), x.mean(1), x.square().mean(1))
    shifted = problem_of(rows, free, moments, 0.01, 0.0, shift)
    plain = problem_of(rows, free, moments, 0.01, 0.0)
    assert torch.equal(shifted.target, plain.target)
    assert torch.allclose(shifted.bias, plain.bias, atol=1e-6)
    assert torch.allclose(shifted.blocks[0].inputs, plain.blocks[0].inputs, rtol=1e-5, atol=1e-5)


def test_rare_outputs_count_as_a_share_of_the_mean():
    rows, _, moments, _ = case()
    moments.outputs[0] = 0
    problem = problem_of(rows, None, moments, 0.01, 0.1)
    assert float(problem.outputs[0, 0]) == pytest.approx(0.1 * float(moments.outputs.mean()))


def test_fewer_places_than_inputs_are_damped_more():
    rows, _, moments, _ = case()
    few = LayerMoments(moments.blocks, None, moments.outputs, 9)
    diagonals = [problem_of(rows, None, m, 0.01, 0.0).blocks[0].inputs.diagonal(dim1=1, dim2=2) for m in (moments, few)]
    assert torch.allclose(diagonals[1] - diagonals[0], module.NOISE * (1 - 9 / 600) * moments.energy.mean(), rtol=1e-3)


def test_inputs_that_are_always_zero_leave_weights_where_they_are():
    moments = LayerMoments((torch.zeros(1, 3, 3),), None, torch.ones(2), 10)
    rows = torch.randn(2, 3)
    problem = problem_of(rows, None, moments, 0.01, 0.0)
    assert torch.equal(problem.target[0].T, rows)
    assert torch.equal(problem.blocks[0].inputs[0], torch.eye(3))


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("d", [9, 75])
def test_paths_along_the_inputs_compensate_too(groups, d):
    _, _, moments, _ = case(d=d, groups=groups)
    weight = torch.randn(groups * d, 5, generator=torch.Generator().manual_seed(2))
    moments = LayerMoments(moments.blocks, None, torch.rand(groups * 5) + 0.1, 600)
    problem = along_problem(weight, moments, 0.01, 0.0, pruned=False)
    costs, found = price(weight), np.zeros((groups * d, 5), np.int32)
    quantize_along(problem, STEP, costs, 1 << 20, found, iter(()))
    plain = along_module.AlongProblem(
        weight, tuple(torch.diag(m.diagonal()) for m in problem.factors), problem.outputs, problem.zero
    )
    without = np.zeros_like(found)
    quantize_along(plain, STEP, costs, 1 << 20, without, iter(()))
    losses = [problem.loss(torch.from_numpy(m) * STEP) for m in (found, without)]
    assert losses[0] < 0.8 * losses[1]
    inputs = torch.block_diag(*(b for b in moments.inputs))
    ridge = (0.01 + module.NOISE * d / 600) * moments.energy.double().mean(1).repeat_interleave(d)
    off = weight.double() - torch.from_numpy(found) * STEP
    s = moments.outputs.reshape(groups, 5).repeat_interleave(d, 0)
    by_hand = 0.5 * float((s * off * ((inputs + torch.diag(ridge)) @ off)).sum())
    assert losses[0] == pytest.approx(by_hand, rel=1e-3)
