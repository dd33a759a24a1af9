"""The training loop: reproducible order of batches, checked losses, progress and cancellation."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from nbquant.losses import record
from nbquant.models.batches import Batches, device_of, dtype_of
from nbquant.models.evaluate import Evaluation, Loss, evaluate, loss_of, parts_of
from nbquant.nested import call
from nbquant.progress import Progress, track

MakeOptimizer = Callable[..., Optimizer | tuple[Optimizer, LRScheduler]]
"""Makes an optimizer, or an optimizer and its schedule, from parameters, and ``lr`` where it is given."""


@dataclass(frozen=True)
class Losses:
    """Training losses of one epoch.

    Attributes:
        steps: Mean loss of each batch, before its step [loss/sample].
        mean: Their mean over the samples.
    """

    steps: tuple[float, ...]
    mean: float


@dataclass(frozen=True, eq=False)
class Training:
    """Settings of a training run.

    Attributes:
        model: The model, already in the modes for training.
        batches: Pairs (inputs, targets); :class:`Batches` are reshuffled each epoch, anything else keeps its
            order.
        optimizer: Optimizer of the trained parameters.
        schedule: Learning-rate schedule, stepped after each batch; None for a constant rate.
        loss: ``loss(output, target)``, the mean over a batch; None for cross-entropy.
        prepare: Called before each forward pass and after the last step of an epoch.
        gather: Called after each backward pass.
    """

    model: nn.Module
    batches: Iterable[tuple[Any, Any]]
    optimizer: Optimizer
    schedule: LRScheduler | None
    loss: Loss | None
    prepare: Callable[[], None] = lambda: None
    gather: Callable[[], None] = lambda: None

    def epochs(self, times: int, ticks: Iterator[object]) -> Iterator[Losses]:
        """Train for some epochs; yields after each.

        Args:
            times: Number of epochs.
            ticks: Advanced before each step; may raise to cancel.

        Raises:
            ValueError: No samples, or a loss that is not one finite number.
            TypeError: A batch that is not a pair, or no ``loss`` where the output is not a tensor.
        """
        device = device_of(self.model)
        for epoch in range(1, times + 1):
            steps: list[float] = []
            total = counted = 0.0
            for number, batch in enumerate(_shuffled(self.batches)):
                next(ticks, None)
                inputs, target, count = parts_of(batch, number, device, dtype_of(self.model))
                if count == 0:
                    continue
                value, mass = self._step(inputs, target, count)
                if not mass:  # all labels are ignored
                    continue
                if not math.isfinite(value):
                    rates = ", ".join(f"{group['lr']:g}" for group in self.optimizer.param_groups)
                    raise ValueError(
                        f"the loss must stay finite, but is {value} at step {len(steps) + 1} of epoch {epoch}: lower "
                        f"lr (it is {rates}), or look for NaN or infinity in weights and inputs if it is the first."
                    )
                steps.append(value)
                total, counted = total + mass * value, counted + mass
            if not steps:
                raise ValueError(
                    f"at least one batch of one sample is required, but epoch {epoch} has none: an iterator that "
                    "was used before is empty, so pass a list or a DataLoader."
                )
            self.prepare()
            yield Losses(tuple(steps), total / counted)

    def _step(self, inputs: Any, target: Any, count: int) -> tuple[float, float]:
        """The loss of a batch before its step, and the number of terms it averages."""
        seen: list[tuple[float, float]] = []

        # Some optimizers, such as LBFGS, evaluate the loss several times per step.
        def closure() -> Tensor:
            self.optimizer.zero_grad()
            self.prepare()
            found = record(lambda: loss_of(self.loss, call(self.model, inputs), target))
            value, mass = found.value, found.mass(count)
            seen.append((float(value.detach()), mass))
            if not mass:
                return value.detach()
            if not value.requires_grad:
                raise ValueError(
                    "loss must return one number per batch that depends on the output by torch's operations, but "
                    f"returned {float(value):g} without a gradient: leave it a tensor."
                )
            value.backward()
            self.gather()
            return value

        self.optimizer.step(closure)  # type: ignore[arg-type]
        if self.schedule is not None:
            self.schedule.step()
        return seen[0]


def made(
    optimizer: MakeOptimizer, lr: float | None, parameters: Iterable[nn.Parameter]
) -> tuple[Optimizer, LRScheduler | None]:
    """Make the optimizer, and its schedule if there is one.

    Raises:
        TypeError: Neither was returned.
    """
    result = optimizer(list(parameters)) if lr is None else optimizer(list(parameters), lr=lr)
    made, schedule = result if isinstance(result, tuple) else (result, None)
    if not isinstance(made, Optimizer):
        raise TypeError(
            f"optimizer must make a torch optimizer from parameters, but made a {type(made).__name__}: pass for "
            "example lambda parameters: torch.optim.SGD(parameters, lr=1e-3)."
        )
    return made, schedule


@contextmanager
def seeded(model: nn.Module, seed: int) -> Iterator[None]:
    """Seed torch's random numbers on the CPU and the model's devices; the previous state is restored afterwards."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    devices = sorted({tensor.device.index for tensor in tensors if tensor.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        torch.random.default_generator.manual_seed(seed)
        for index in devices:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


@contextmanager
def ticking(steps: int | None, description: str, progress: Progress) -> Iterator[Iterator[object]]:
    """Tick for each of ``steps`` steps (None: unknown number); unused ticks pass at the end."""
    ticks = track(range(steps) if steps is not None else itertools.count(), description, progress)
    try:
        yield ticks
        if steps is not None:
            for _ in ticks:
                pass
    finally:
        ticks.close()  # type: ignore[attr-defined]


def evaluated(
    model: nn.Module,
    batches: Iterable[tuple[Any, Any]],
    loss: Loss | None,
    ticks: Iterator[object],
    reference: nn.Module | None = None,
) -> Evaluation:
    """Evaluate as :func:`nbquant.evaluate`, with one tick per batch."""

    def tick(done: int, _: int | None) -> None:
        if done:
            next(ticks, None)

    return evaluate(model, batches, loss, tick, reference=reference)


def steps_of(*passes: tuple[Iterable[tuple[Any, Any]] | None, int]) -> int | None:
    """Count the batches in so many passes through each, if all have lengths."""
    try:
        return sum(times * len(batches) for batches, times in passes if batches is not None)  # type: ignore[arg-type, misc]
    except TypeError:
        return None


def require_repeatable(batches: object, name: str, times: int) -> None:
    """Refuse an iterator that would be used more than once.

    Raises:
        ValueError: It is one.
        TypeError: Not iterable.
    """
    if not isinstance(batches, Iterable):
        raise TypeError(f"{name} must yield pairs (inputs, targets), but is a {type(batches).__name__}.")
    if times > 1 and isinstance(batches, Iterator):
        raise ValueError(
            f"{name} is iterated {times} times, but is an iterator, which is empty after the first: pass a list "
            "or a DataLoader."
        )


def require_count(name: str, value: object) -> None:
    """Require a whole number of at least one.

    Raises:
        TypeError: Not a whole number.
        ValueError: Below one.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, but is {value!r}.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, but is {value}.")


def _shuffled(batches: Iterable[tuple[Any, Any]]) -> Iterator[Any]:
    if not isinstance(batches, Batches):
        yield from batches
        return
    for chosen in torch.randperm(batches.samples).split(batches.batch_size):
        yield batches.inputs[chosen], batches.targets[chosen]
