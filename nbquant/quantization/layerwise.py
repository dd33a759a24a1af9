"""Error feedback for one layer: repeated passes over its columns, code lengths, and a check that feedback helps."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int32
from torch import Tensor

from nbquant.coding.levels import matrix_shape, rows_of_block
from nbquant.kernels import dispatch
from nbquant.quantization.along import along_problem, quantize_along
from nbquant.quantization.compensation import (
    PANEL,
    Problem,
    damped_outputs,
    problem_of,
    quantize_in_turn,
    sweep,
    values_of,
)
from nbquant.quantization.moments import LayerMoments, Part, Shift
from nbquant.quantization.paths import (
    LARGEST,
    MOST_LEVELS,
    Matrix,
    Paths,
    alike,
    bits_of,
    find_paths,
    first_bits,
    held,
)
from nbquant.quantization.tensor import SelectedTensor
from nbquant.quantization.trellis import SLOPE as TRELLIS_SLOPE

SLOPE = 0.02  # λ over the mean of s M² Δ²; ln 2 / 6 is right at high rates, and these are low ones
EXCHANGE = TRELLIS_SLOPE / SLOPE
"""Cost of a bit between layers, over λ: errors that later weights compensate cost less than one column shows."""
PASSES = 2  # with error feedback, before single columns are revised
SWEEPS = 2  # revisions of all columns
COMPARED, COMPARED_SHARE = 16, 8  # rows compared with a trellis without feedback: this many, or one in so many
COMPARED_TURNS = 3
LEAST_COMPARED = 2048  # weights needed for the comparison: with fewer it is noise
LEAST_HELD = 16  # held-back inputs needed, likewise
WORSE = 1.25  # loss over that of the trellis up to which a difference may be noise


@dataclass(frozen=True)
class Settings:
    """Settings shared by all layers; see :class:`nbquant.quantization.feedback.Feedback`."""

    lmbda: float
    damping: float
    output_damping: float
    pruned: bool


def ticks_of(weight: SelectedTensor) -> int:
    """Estimate how often the progress of a layer ticks."""
    return (PASSES + SWEEPS) * math.ceil(matrix_shape(weight.weight.shape)[1] / PANEL)


def shared_step(known: Sequence[tuple[Sequence[SelectedTensor], Part, LayerMoments]], settings: Settings) -> float:
    """Compute the step of several weight matrices that share a codebook."""
    counts = [sum(t.weight.numel() for t in m) for m, _, _ in known]
    total = sum(_curvature(*of, settings) * n for of, n in zip(known, counts, strict=True))
    return _step(total / sum(counts), settings)


def quantize_layer(
    members: Sequence[SelectedTensor],
    rest: Sequence[SelectedTensor],
    part: Part,
    moments: LayerMoments,
    shift: Shift | None,
    settings: Settings,
    step: float | None,
    ticks: Iterator[object],
) -> Paths:
    """Quantize one weight matrix and the tensors that share its step.

    Args:
        members: The weight, and its bias if that is quantized with it.
        rest: Other tensors of the same codebook, without moments.
        part: Place of the weight in the network.
        moments: Moments of its inputs and outputs.
        shift: Change of its inputs.
        settings: Settings of all layers.
        step: Step Δ [weight]; None searches it.
        ticks: Advanced before each panel of columns; may raise to cancel.

    Returns:
        Integers of the members, then of the rest.

    Raises:
        ValueError: Moments that do not fit; a step too small for the weights.
    """
    _check_fit(members, part, moments)
    if part.along and not part.stacked:
        done = _along(members, moments, settings, step, ticks)
    else:
        done = _columns(members, part, moments, shift, settings, step, ticks)
    if not part.along and not part.stacked and step is None and not rest:
        alone = replace(settings, lmbda=EXCHANGE * settings.lmbda)
        if _is_worse(members, moments, done, alone):
            done = find_paths(matrices_without_feedback(members, moments, alone), alone.lmbda, False, ticks)
    if not rest:
        return done
    step = done.matrices[0].step
    alone = replace(settings, lmbda=EXCHANGE * settings.lmbda)
    matrices = [_plain(t, t.sensitivity, alone, step) for t in rest]
    beside = find_paths(matrices, alone.lmbda, True, ticks)
    return Paths((*done.matrices, *beside.matrices), done.loss + beside.loss, done.bits + beside.bits)


def _columns(
    members: Sequence[SelectedTensor],
    part: Part,
    moments: LayerMoments,
    shift: Shift | None,
    settings: Settings,
    step: float | None,
    ticks: Iterator[object],
) -> Paths:
    """Quantize a weight whose rows are outputs, with paths across them; for a stack, its matrices are the rows."""
    weight, *bias = members
    rows, cols = matrix_shape(weight.weight.shape)
    free = bias[0].weight.reshape(-1) if bias else None
    problem = layer_problem(weight, free, part, moments, shift, settings)
    step = step or _step(_mean_curvature(problem), settings)
    _check_step(members, step)
    integers = np.zeros((cols, rows), np.int32)
    restart = rows_of_block(cols)
    costs = first_bits(float(problem.target.abs().mean()), step)
    bits = 0.0
    for turn in range(PASSES + SWEEPS):
        run = quantize_in_turn if turn < PASSES else sweep
        run(problem, step, settings.lmbda * costs.astype(np.float64), restart, integers, ticks)
        costs, bits = bits_of(dispatch.count_levels(integers.T, restart, MOST_LEVELS))
    value = values_of(problem, integers, step)
    loss = problem.loss(value)
    target = (problem.target if part.along else problem.target.mT).reshape(rows, cols)
    found = [_matrix(weight, target, torch.from_numpy(integers.T.copy()), step)]
    if bias:
        target, h = problem.bias_target(value)[:, None], problem.outputs.reshape(-1, 1)
        if settings.pruned:
            target, h = _held(free[:, None].cpu(), target, h, settings, step)  # type: ignore[index]
        chosen = dispatch.viterbi(target, 0.5 * h, step, torch.from_numpy(costs), None, settings.lmbda)
        loss += 0.5 * float((h * (target - chosen * step).square()).double().sum())
        bits += bits_of(dispatch.count_levels(chosen.numpy(), rows_of_block(1), MOST_LEVELS))[1]
        found.append(_matrix(bias[0], target, chosen, step))
    return Paths(tuple(found), loss, bits)


def layer_problem(
    weight: SelectedTensor,
    bias: Tensor | None,
    part: Part,
    moments: LayerMoments,
    shift: Shift | None,
    settings: Settings,
) -> Problem:
    """Set up the quadratic loss of a weight whose rows are outputs, or of a stack of matrices.

    Args:
        weight: The weight.
        bias: Its bias, if that is quantized after it.
        part: Place of the weight in the network.
        moments: Moments of its inputs and outputs.
        shift: Change of its inputs; None for none.
        settings: Settings of all layers.
    """
    value = weight.weight.mT if part.stacked and part.along else weight.weight
    rows = value.reshape(part.shape(weight.weight))
    found = problem_of(rows, bias, moments, settings.damping, settings.output_damping, shift, settings.pruned)
    if not part.stacked:
        return found
    _, d, outputs = found.target.shape
    column = np.arange(d * outputs)
    numbers = column.reshape(d, outputs) if part.along else column.reshape(outputs, d).T
    zero = None if found.zero is None else (weight.weight.detach() == 0).cpu().flatten(1).T.contiguous()
    return replace(found, stacked=numbers, zero=zero)


def _along(
    members: Sequence[SelectedTensor],
    moments: LayerMoments,
    settings: Settings,
    step: float | None,
    ticks: Iterator[object],
) -> Paths:
    """Quantize a weight whose rows are inputs, with paths along them."""
    (weight,) = members
    rows, cols = matrix_shape(weight.weight.shape)
    matrix = weight.weight.reshape(rows, cols)
    problem = along_problem(matrix, moments, settings.damping, settings.output_damping, settings.pruned)
    step = step or _step(problem.mean_curvature, settings)
    _check_step(members, step)
    integers = np.zeros((rows, cols), np.int32)
    costs, bits = first_bits(float(problem.target.abs().mean()), step), 0.0
    for _ in range(PASSES + 1):
        price = settings.lmbda * costs.astype(np.float64)
        quantize_along(problem, step, price, rows_of_block(cols), integers, ticks)
        costs, bits = bits_of(dispatch.count_levels(integers, rows_of_block(cols), MOST_LEVELS))
    found = torch.from_numpy(integers)
    return Paths((_matrix(weight, problem.target, found, step),), problem.loss(found * step), bits)


def _mean_curvature(problem: Problem) -> float:
    """Mean of ½ s M_jj² over the weights, and of ½ s over the biases that share their step."""
    of_row = problem.curvature.double().sum(1) + (problem.bias is not None)
    count = problem.target.shape[1] + (problem.bias is not None)
    return 0.5 * float((of_row * problem.outputs.double().mean(1)).mean()) / count


def _curvature(members: Sequence[SelectedTensor], part: Part, moments: LayerMoments, settings: Settings) -> float:
    if part.along and not part.stacked:
        matrix = members[0].weight.reshape(matrix_shape(members[0].weight.shape))
        return along_problem(matrix, moments, settings.damping, settings.output_damping, False).mean_curvature
    free = members[1].weight.reshape(-1) if len(members) > 1 else None
    return _mean_curvature(layer_problem(members[0], free, part, moments, None, settings))


def _step(curvature: float, settings: Settings) -> float:
    return float(np.float32(math.sqrt(settings.lmbda / (2 * SLOPE * curvature))))


def _matrix(
    tensor: SelectedTensor, target: Float[Tensor, "rows cols"], integers: Int32[Tensor, "rows cols"], step: float
) -> Matrix:
    target = target.to(tensor.weight.device)
    return Matrix(target, alike(1.0, target), tensor.layer, tensor.layer, step, integers.to(target.device))


def _plain(tensor: SelectedTensor, h: Float[Tensor, "..."] | None, settings: Settings, step: float) -> Matrix:
    """A tensor whose errors count independently."""
    shape = matrix_shape(tensor.weight.shape)
    target = tensor.weight.reshape(shape)
    h = alike(1.0, target) if h is None else h.reshape(shape).float()
    if settings.pruned:
        target, h = _held(target, target, h, settings, step)
    return Matrix(target, h, tensor.layer, tensor.layer, step)


def _held(weight: Tensor, target: Tensor, h: Tensor, settings: Settings, step: float) -> tuple[Tensor, Tensor]:
    """Targets and sensitivities that keep zero weights at zero."""
    zero = weight == 0
    return torch.where(zero, 0.0, target), held(h, zero, settings.lmbda, step)


def matrices_without_feedback(
    members: Sequence[SelectedTensor], moments: LayerMoments, settings: Settings, count: int | None = None
) -> list[Matrix]:
    """Make the matrices of a layer for a trellis without feedback: h as given, or s_r G_jj; for a bias s_r.

    Args:
        members: The weight, and its bias if that is quantized with it.
        moments: Moments of its inputs and outputs.
        settings: Settings of all layers.
        count: Number of the first rows that are used; None for all.
    """
    s, energy = damped_outputs(moments, settings.output_damping).reshape(-1), moments.energy.cpu().double()
    found, step = [], 0.0
    for t in members:
        shape = matrix_shape(t.weight.shape)
        if t.sensitivity is not None:
            h = t.sensitivity.reshape(shape)
        elif t is not members[0]:
            h = s.float().reshape(shape).to(t.weight.device)
        elif len(s) == shape[0] and shape[0] % len(energy) == 0:
            h = (s[:, None] * energy.repeat_interleave(shape[0] // len(energy), 0)).float().to(t.weight.device)
        else:  # rows are inputs, or matrices of a stack
            h = torch.full(shape, float(s.mean() * energy.mean()), device=t.weight.device)
        step = step or math.sqrt(settings.lmbda / (TRELLIS_SLOPE * max(float(h.double().mean()), 1e-300)))
        part = replace(t, weight=t.weight.reshape(shape)[:count], sensitivity=h[:count])
        found.append(_plain(part, part.sensitivity, settings, step))
    return found


def _is_worse(members: Sequence[SelectedTensor], moments: LayerMoments, done: Paths, alone: Settings) -> bool:
    """Whether a trellis without feedback loses less at the same rate, on held-back inputs and some of the rows.

    A difference in rate counts 6 dB per bit.
    """
    if moments.held_back is None or moments.held_back.shape[1] < LEAST_HELD:
        return False
    x = moments.held_back.cpu().float()
    if len(members) > 1:
        x = x - x.mean(1, keepdim=True)  # the bias absorbs the mean
    weight = members[0]
    rows, cols = matrix_shape(weight.weight.shape)
    of_group = rows // len(x)
    count = min(max(COMPARED, rows // COMPARED_SHARE, math.ceil(LEAST_COMPARED / cols)), rows)
    if of_group < count:
        count = math.ceil(count / of_group) * of_group
    s = damped_outputs(moments, alone.output_damping).flatten()[:count]

    def lost(matrix: Matrix) -> float:
        assert matrix.integers is not None
        off = matrix.target[:count].cpu().float() - matrix.integers[:count].cpu() * matrix.step
        outputs = [x[g] @ part.mT for g, part in enumerate(off.split(of_group))]
        return 0.5 * float((torch.cat(outputs, 1).square().mean(0) * s).sum())

    def bits(matrix: Matrix) -> float:
        assert matrix.integers is not None
        integers = matrix.integers[:count].cpu().numpy()
        return bits_of(dispatch.count_levels(integers, rows_of_block(cols), MOST_LEVELS))[1]

    ours, n = done.matrices[0], count * cols
    if n < LEAST_COMPARED:
        return False
    matrices = matrices_without_feedback(members[:1], moments, alone, count)
    plain = find_paths(matrices, alone.lmbda, False, iter(()), COMPARED_TURNS).matrices[0]
    return lost(ours) > WORSE * lost(plain) * 4 ** ((bits(plain) - bits(ours)) / n)


def _check_step(members: Sequence[SelectedTensor], step: float) -> None:
    for t in members:
        reach = dispatch.largest(t.weight)
        if not reach < LARGEST * step:
            raise ValueError(
                f"the step of {t.name!r} must be above {reach / LARGEST:.3g} for weights up to {reach:.3g}, but is "
                f"{step:.3g}: pass a larger lmbda"
            )


def _check_fit(members: Sequence[SelectedTensor], part: Part, moments: LayerMoments) -> None:
    weight, groups = members[0].weight, len(moments.blocks[0])
    if weight.ndim < 2 or (part.stacked and weight.ndim != 3) or len(weight) % groups:
        raise ValueError(
            f"moments of {groups} groups do not fit {members[0].name!r} of shape {tuple(weight.shape)}: calibrate the "
            "model that was selected from"
        )
    outputs, inputs = part.shape(weight)
    if len(moments.outputs) != outputs or moments.width != inputs:
        raise ValueError(
            f"moments of {outputs} outputs and {inputs} inputs are required for {members[0].name!r}, but are of "
            f"{len(moments.outputs)} and {moments.width}: calibrate the model that was selected from"
        )
