"""Number of samples that share a squared gradient: a trade-off between variance and cost.

It depends on operation counts only, never on a clock, so that a seed always gives the same estimate.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from nbquant.sensitivity.batch import Batch
from nbquant.sensitivity.layout import floating
from nbquant.sensitivity.problem import Problem
from nbquant.sensitivity.taps import count_uses, graph_size

SQUARES = 64  # least number of squares averaged, if cost allows
MORE = 0.4  # additional cost allowed for groups, relative to a forward and backward pass
_FLOPS = 4e10  # per second
_NODE = 15e-6  # s per operation, forward and backward, however small
_ENTRY = 1e-9  # s per entry of a gradient formed by autograd
_STEP = 3  # operations per step of a fused recurrence
_FORMULA = 8  # operations per formula of a parameter


@dataclass(frozen=True)
class Cost:
    """Estimated cost of forward and backward passes.

    Attributes:
        sample: Cost per sample [s].
        run: Additional cost per run, whatever its number of samples [s].
    """

    sample: float
    run: float


def group_size(problem: Problem, batch: Batch, cost: Cost) -> int:
    """Choose the number of samples whose gradients are squared together.

    Args:
        problem: The problem; its number of batches determines the number of squares.
        batch: A batch to divide.
        cost: Cost of the model.
    """
    try:
        batches = len(problem.batches)  # type: ignore[arg-type]
    except TypeError:
        batches = 4  # a guess that errs towards more squares
    wanted = math.ceil(SQUARES / max(batches, 1))
    allowed = 1 + int(MORE * cost.sample * batch.size / cost.run)
    return max(1, math.ceil(batch.size / max(1, min(wanted, allowed, batch.size))))


def cost_of(problem: Problem, batch: Batch, others: Sequence[str]) -> Cost:
    """Estimate the cost of a model by running two samples.

    Args:
        problem: The problem.
        batch: A batch with known axes.
        others: Parameters whose gradients are formed by autograd.
    """
    from torch.utils.flop_counter import FlopCounterMode  # a quarter of a second to import

    pair = batch.part(0, 2)
    with _recurrent_steps(problem.model) as steps, FlopCounterMode(display=False) as counter:
        outputs = floating(problem.call(pair))
    uses = count_uses(outputs)
    entries = sum(p.numel() for p in problem.parameters.values())  # of sums, and of gradients
    entries += sum(problem.parameters[name].numel() * max(0, uses[id(problem.parameters[name])] - 1) for name in others)
    flops = counter.get_total_flops() + sum(own for _, own in steps)
    nodes = graph_size(outputs) + _STEP * sum(count for count, _ in steps)
    nodes += _FORMULA * (len(problem.parameters) - len(others))
    return Cost(3 * flops / _FLOPS / pair.size, _NODE * nodes + _ENTRY * entries)


@contextmanager
def _recurrent_steps(model: nn.Module) -> Iterator[list[tuple[int, int]]]:
    """Steps and operations of fused recurrences, which neither graphs nor counters show."""
    found: list[tuple[int, int]] = []

    def note(layer: nn.LSTM, args: tuple[Any, ...], output: Any) -> None:
        x = args[0] if args else None
        if isinstance(x, Tensor) and x.ndim == 3:
            samples, steps = (x.shape[0], x.shape[1]) if layer.batch_first else (x.shape[1], x.shape[0])
            weights = sum(p.numel() for p in layer.parameters())
            found.append((steps * layer.num_layers * (1 + layer.bidirectional), 2 * weights * samples * steps))

    handles = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, nn.LSTM)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
