"""Loss and accuracy of a model."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from nbquant.models.batches import device_of, to_device
from nbquant.nested import call
from nbquant.progress import Progress, track

Loss = Callable[[Any, Any], Float[Tensor, ""]]
"""loss(output, target): the mean loss of a batch's samples."""


@dataclass(frozen=True)
class Evaluation:
    """How good a model is.

    Attributes:
        accuracy: Part of the samples whose greatest logit is the target's, in [0, 1]; None if it does not
            classify.
        loss: Mean loss [loss/sample].
        samples: Number of samples it was measured on.
    """

    accuracy: float | None
    loss: float
    samples: int

    def __str__(self) -> str:
        if self.accuracy is None:
            return f"loss {self.loss:.4f} on {self.samples:,} samples"
        return f"{100 * self.accuracy:.2f} % of {self.samples:,} samples, loss {self.loss:.4f}"


def evaluate(
    model: nn.Module, batches: Iterable[tuple[Any, Any]], loss: Loss | None = None, progress: Progress = True
) -> Evaluation:
    """Measure loss and accuracy, without gradients and in eval mode.

    The modes of all the model's modules and the state of the random numbers are afterwards as before.

    Args:
        model: Any module.
        batches: (inputs, targets), moved to the model's device. Inputs are a tensor, a tuple or list of tensors (passed
            by position) or a dict of tensors (passed by name).
        loss: ``loss(output, target)``, the mean over a batch as one number; None is cross-entropy. Batches count by
            their samples: the targets' (otherwise the inputs') first tensor has one a row.
        progress: See :data:`nbquant.progress.Progress`.

    Returns:
        Loss and samples; accuracy where all outputs are class logits (n, C ≥ 2) and all targets integers (n).

    Raises:
        ValueError: No batches or samples, a loss that is not one number, or one that is not finite.
        TypeError: A batch that is not a pair, or no ``loss`` where the output is not a tensor.
    """
    total, samples, correct = 0.0, 0, 0
    classifies = True
    device = device_of(model)
    with _undisturbed(model):
        for number, batch in enumerate(track(batches, "Evaluating", progress)):
            inputs, target, count = parts_of(batch, number, device)
            if count == 0:
                continue
            output = call(model, inputs)
            value = float(loss_of(loss, output, target))
            if not math.isfinite(value):
                raise ValueError(
                    f"loss must be finite, but is {value} for batch {number}: look for NaN or infinity in weights and "
                    "inputs."
                )
            total += count * value
            samples += count
            classifies = classifies and _is_classification(output, target)
            if classifies:
                correct += int((output.argmax(1) == target).sum())
    if samples == 0:
        raise ValueError(
            "at least one batch of one sample is required, but none came: an iterator that was gone through before is "
            "empty, so pass a list or a DataLoader."
        )
    return Evaluation(correct / samples if classifies else None, total / samples, samples)


def parts_of(batch: Any, number: int, device: torch.device | None) -> tuple[Any, Any, int]:
    """Inputs and targets of a batch on a device, and the number of its samples.

    Raises:
        TypeError: Not a pair; names the batch by its number.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        length = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
        raise TypeError(
            f"batches must be pairs (inputs, targets), but batch {number} is a {type(batch).__name__}{length}: "
            "yield for example ((ids, mask), target) where there are several inputs."
        )
    inputs, target = to_device(batch[0], device), to_device(batch[1], device)
    return inputs, target, _samples(target) or _samples(inputs)


def loss_of(loss: Loss | None, output: Any, target: Any) -> Float[Tensor, ""]:
    """The loss of a batch; cross-entropy if none is given.

    Raises:
        TypeError: No ``loss`` where the output is not a tensor.
        ValueError: A loss that is not one number.
    """
    if loss is None:
        if not isinstance(output, Tensor):
            raise TypeError(
                f"without loss=… the model must return a tensor of class logits, but it returned a "
                f"{type(output).__name__}: pass loss=lambda output, target: … that picks what it needs."
            )
        loss = functional.cross_entropy
    value = loss(output, target)
    if not isinstance(value, Tensor | float | int) or (isinstance(value, Tensor) and value.numel() != 1):
        came = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise ValueError(
            f"loss must return one number a batch, but returned {came}: reduce it, for example by .mean()."
        )
    return torch.as_tensor(value)


def _samples(part: Any) -> int:
    """Rows of the first tensor in a nested batch; 0 if there is none."""
    if isinstance(part, Tensor):
        return len(part) if part.ndim else 0
    if isinstance(part, dict):
        part = tuple(part.values())
    return next(filter(None, map(_samples, part)), 0) if isinstance(part, tuple | list) else 0


def _is_classification(output: Any, target: Any) -> bool:
    return (
        isinstance(output, Tensor)
        and isinstance(target, Tensor)
        and output.ndim == 2
        and output.shape[1] >= 2
        and target.shape == output.shape[:1]
        and not (target.is_floating_point() or target.is_complex() or target.dtype == torch.bool)
    )


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients inside; modes, one by one, and random numbers afterwards as before."""
    modes = [(module, module.training) for module in model.modules()]
    device = device_of(model)
    on_gpu = device is not None and device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []), torch.no_grad():
        try:
            model.eval()
            yield
        finally:
            for module, training in modes:
                module.training = training
