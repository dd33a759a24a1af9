"""Sums of squared per-sample gradients for any network.

For layers with a formula (:mod:`nbquant.sensitivity.layers`), hooks keep the input, and one backward pass through the
activations gives the output gradients: autograd never forms a gradient of the weight. Every other parameter
(recurrent, tied, free-standing) gets its gradient from autograd, for a group of samples at a time. If the vectors in
output space are random, with mean zero and independent between samples, the squared gradient of a group is an unbiased
estimate of the sum over its samples; if they are not, samples run one by one, each once more.
"""

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from nbquant.losses import record
from nbquant.nested import map_tensors
from nbquant.sensitivity.backward_pass import pull_back
from nbquant.sensitivity.batch import Batch
from nbquant.sensitivity.groups import Cost, cost_of, group_size
from nbquant.sensitivity.layout import Layout, floating
from nbquant.sensitivity.loss import Block, OutputLoss, loss_inside
from nbquant.sensitivity.problem import Estimate, Problem
from nbquant.sensitivity.squares import add_squares
from nbquant.sensitivity.taps import Run, Tap, count_uses, find_taps, run

Vectors = Callable[[OutputLoss], Iterable[Block]]
"""Maps the loss of a batch to signed vectors in output space: the sum grows by sign · (Jᵀ vector)² of every sample."""

LONG = 60.0  # s: longer estimates are announced by a warning


@dataclass
class GradientSums:
    """Sums over all batches.

    Attributes:
        squares: Σ sign · (Jᵀ vector)² over samples, by parameter name.
        mass: Number of terms averaged, over all batches.
        samples: Number of samples.
    """

    squares: dict[str, Tensor]
    mass: float = 0.0
    samples: int = 0

    def mean(self) -> Estimate:
        """Divide the squares by the mass: the diagonal of mean JᵀHJ, if the vectors are factors of mass · H."""
        return {name: square / (self.mass or 1.0) for name, square in self.squares.items()}, self.samples


@dataclass
class _State:
    """What is known about the model so far."""

    layout: Layout = field(default_factory=Layout)
    taps: list[Tap] | None = None
    cost: Cost | None = None
    announced: bool = False


def squared_gradient_sums(problem: Problem, vectors: Vectors, *, independent: bool) -> GradientSums:
    """Sum over all samples Σ_v sign_v · (J_nᵀ v_n)², with J_n the Jacobian of a sample's outputs.

    Args:
        problem: Model, parameters, loss and samples.
        vectors: Vectors to propagate back.
        independent: Whether the vectors of different samples are independent with mean zero.

    Raises:
        TypeError: A loss that does not return a tensor.
        ValueError: An invalid loss; or samples that influence each other, unless vectors are independent.
    """
    sums, state = GradientSums(problem.zeros()), _State()
    for batch in problem:
        batch = state.layout.of(problem, batch)
        if batch.axes is None and not independent and batch.size > 1:
            _refuse_mixing(problem, state.layout)
        if state.taps is None and batch.axes is not None:
            state.taps = find_taps(problem, batch, state.layout)
        taps = state.taps or [] if batch.axes is not None else []
        others = _others(problem, taps)
        size = batch.size
        if others and independent and batch.axes is not None and batch.size > 1:
            size = _group_size(problem, batch, state, others)
        runs = [run(problem, part, taps) for part in _parts(batch, size)]
        usable = _usable(taps, runs)
        if len(usable) < len(taps):  # called differently than in the trial
            taps = [taps[i] for i in usable]
            others = _others(problem, taps)
            runs = [replace(r, sights=[r.sights[i] for i in usable]) for r in runs]
        _add_batch(sums, problem, state, batch, taps, others, runs, vectors, independent)
    return sums


def _others(problem: Problem, taps: Sequence[Tap]) -> list[str]:
    done = {name for tap in taps for name in tap.names.values()}
    return [name for name in problem.parameters if name not in done]


def _group_size(problem: Problem, batch: Batch, state: _State, others: Sequence[str]) -> int:
    if state.cost is None:
        state.cost = cost_of(problem, batch, others)
    return group_size(problem, batch, state.cost)


def _parts(batch: Batch, size: int) -> list[Batch]:
    if size >= batch.size:
        return [batch]
    return [batch.part(start, start + size) for start in range(0, batch.size, size)]


def _usable(taps: Sequence[Tap], runs: Sequence[Run]) -> list[int]:
    """Taps whose runs all met the conditions of their formulas, or were not reached at all."""
    uses = [count_uses(r.outputs) for r in runs]
    return [
        i
        for i, tap in enumerate(taps)
        if all(
            (r.sights[i].calls == 0 and not any(u[id(tap.layer.get_parameter(s))] for s in tap.names))
            or r.sights[i].is_usable(tap, u, r.size)
            for r, u in zip(runs, uses, strict=True)
        )
    ]


def _refuse_mixing(problem: Problem, layout: Layout) -> None:
    if layout.mixing:
        norms = (m for m in problem.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
        norm = next((m for m in norms if m.running_mean is None), None)
        why = f" ({type(norm).__name__} without running statistics)" if norm is not None else ""
        raise ValueError(
            f"the output for a sample changes by {layout.mixing:.0%} with the other samples of its batch{why}, so "
            'there are no per-sample gradients: use method="gauss_newton_sampled", "hutchinson" or "adam".'
        )
    raise ValueError(
        "samples must be along one dimension of the inputs and one of the outputs, but none was found along which "
        f"{type(problem.model).__name__} gives the same outputs for a part of a batch: pass one sample a batch, or use "
        'method="gauss_newton_sampled".'
    )


def _add_batch(
    sums: GradientSums,
    problem: Problem,
    state: _State,
    batch: Batch,
    taps: Sequence[Tap],
    others: Sequence[str],
    runs: list[Run],
    vectors: Vectors,
    independent: bool,
) -> None:
    axes = state.layout.outputs if batch.axes is not None else None
    # A loss among the outputs is not an output.
    kept = [i for i, z in enumerate(runs[0].outputs) if (z.ndim > 0 if axes is None else axes[i] is not None)]
    own_axes = tuple(axes[i] or 0 for i in kept) if axes is not None else None
    apart = bool(others) and not independent and axes is not None and batch.size > 1
    output = _joined(runs, axes)
    outputs = [z for i, z in enumerate(floating(output)) if i in kept]
    loss = problem.output_loss(output, outputs, own_axes, batch)
    if loss.is_elsewhere and (inner := _inner_losses(problem, batch, taps, 1 if apart else runs[0].size)):
        for found, seen in inner:
            sums.mass, sums.samples = sums.mass + found.mass, sums.samples + seen.size
            add_squares(sums.squares, problem, taps, others, [seen], [list(found.z)], vectors(found), None)
        return
    problem.check(loss.recorded, batch, loss.mass)
    if sums.samples == 0:
        problem.check_mean(output, batch)
    sums.samples += batch.size
    if not loss.mass:
        return
    if not loss.is_separable:
        if not independent:
            raise ValueError(
                f"the loss must be a mean over samples, but ties the outputs of the {batch.size} samples of a batch "
                'to each other: use method="gauss_newton_sampled", or pass one sample a batch.'
            )
        whole = replace(batch, axes=None)
        taps, others, own_axes = [], list(problem.parameters), None
        runs = [run(problem, whole, [])]
        loss = problem.output_loss(runs[0].output, [runs[0].outputs[i] for i in kept], None, whole)
    sums.mass += loss.mass
    attached = [[r.outputs[i] for i in kept] for r in runs]
    together = [] if apart else others
    shared = own_axes if len(runs) > 1 else None
    add_squares(sums.squares, problem, taps, together, runs, attached, vectors(loss), shared)
    for sample in range(batch.size) if apart else ():
        own = run(problem, batch.part(sample, sample + 1), [])
        if not state.announced:
            state.announced = True
            _announce(problem, others, loss, own, batch)
        attached = [[own.outputs[i] for i in kept]]
        add_squares(sums.squares, problem, [], others, [own], attached, vectors(loss), own_axes, sample)


def _joined(runs: Sequence[Run], axes: Sequence[int | None] | None) -> Any:
    """The outputs of all runs as one, detached from their graphs."""
    if len(runs) == 1:
        return map_tensors(lambda t: t.detach() if t.is_floating_point() else t, runs[0].output)
    assert axes is not None
    columns = iter(zip(axes, *(r.outputs for r in runs), strict=True))

    def join(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        axis, *parts = next(columns)
        first = parts[0].detach()
        return first if axis is None else torch.cat([part.detach() for part in parts], axis)

    return map_tensors(join, runs[0].output)


def _inner_losses(problem: Problem, batch: Batch, taps: Sequence[Tap], size: int) -> list[tuple[OutputLoss, Run]]:
    """Losses computed by the model itself, from labels among its inputs: a loss and a run per part.

    Raises:
        ValueError: It computes one without closed form.
    """
    found = []
    for part in _parts(batch, size):
        seen: list[Run] = []

        def value(part: Batch = part, seen: list[Run] = seen) -> Any:
            seen.append(run(problem, part, taps))
            return problem.loss(seen[0].output, part.target)

        recorded = record(value)
        loss = loss_inside(recorded, part.size)
        if loss is None:
            if isinstance(recorded.value, Tensor) and recorded.value.requires_grad:
                raise ValueError(
                    f"{type(problem.model).__name__} computes its loss itself, by none of torch's losses that have a "
                    "closed form: pass loss=lambda output, target: … that computes it from the outputs, or use "
                    'method="adam" or "hutchinson".'
                )
            return []
        problem.check(recorded, part, loss.mass)
        found.append((loss, seen[0]))
    return found


def _announce(problem: Problem, others: Sequence[str], loss: OutputLoss, seen: Run, batch: Batch) -> None:
    """Warn before a long loop over samples."""
    try:
        batches = len(problem.batches)  # type: ignore[arg-type]
    except TypeError:
        batches = 1
    outputs = [z for z in seen.outputs if z.requires_grad]
    if not outputs:
        return
    start = time.perf_counter()
    ends = [problem.parameters[name] for name in others]
    pull_back(outputs, ends, [torch.zeros_like(z) for z in outputs], keep_graph=True)
    once = time.perf_counter() - start
    columns = loss.column_count if loss.terms else 1
    seconds = once * max(columns, 1) * batches * batch.size / seen.size
    if seconds > LONG:
        warnings.warn(
            f"{len(others)} of {len(problem.parameters)} parameters, first {others[0]!r}, have no formula and take a "
            f"backward pass for every sample and column of the loss's Hessian, about {seconds / 60:.0f} minutes: use "
            'method="gauss_newton_sampled", pass fewer samples, or leave them out with parameters=.',
            stacklevel=2,
        )
