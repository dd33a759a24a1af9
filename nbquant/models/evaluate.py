"""Evaluation of a model: loss, accuracy and comparison with a reference."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from nbquant.eval_mode import in_eval_mode
from nbquant.losses import Loss, Recorded, Term, record, record_loss
from nbquant.models.batches import device_of, dtype_of, to_device
from nbquant.models.comparison import Comparing, Comparison, labelled, softmax_term
from nbquant.nested import call
from nbquant.progress import Progress, track
from nbquant.required import MODULE, require

Metric = Callable[[Any, Any], Any]
"""metric(output, target) returns the mean of a quantity over a batch's samples, as one number."""


@dataclass(frozen=True)
class Evaluation:
    """Loss, accuracy and metrics of a model.

    Attributes:
        accuracy: Share of labels whose largest logit is the target's, in [0, 1]; None if it does not classify.
        loss: Mean loss [loss/label, or loss/sample where labels cannot be counted].
        samples: Number of samples.
        labels: Number of labels, without ignored ones (-100); 0 if it does not classify.
        metrics: Means of the requested metrics over the samples.
        comparison: Comparison with a reference's predictions; None without one, or if it does not classify.
        reference: Evaluation of the reference on the same batches; None without one.
        is_entropy: Whether the loss is the plain cross-entropy of the labels, as :attr:`bits_per_label` requires.
    """

    accuracy: float | None
    loss: float
    samples: int
    labels: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    comparison: Comparison | None = None
    reference: "Evaluation | None" = None
    is_entropy: bool = False

    @property
    def is_sequence(self) -> bool:
        """Whether samples have several labels each, as in texts."""
        return self.labels > self.samples

    @property
    def perplexity(self) -> float | None:
        """Perplexity exp(loss); None unless the loss is plain cross-entropy."""
        return math.exp(min(self.loss, 700.0)) if self.is_entropy else None

    @property
    def bits_per_label(self) -> float | None:
        """Cross-entropy [bit/label], per token or character in texts; None unless the loss is plain cross-entropy."""
        return self.loss / math.log(2) if self.is_entropy else None

    def __str__(self) -> str:
        parts = []
        if self.accuracy is not None:
            count = f"{self.labels:,} labels" if self.labels not in (0, self.samples) else f"{self.samples:,} samples"
            parts.append(f"{100 * self.accuracy:.2f} % of {count}, loss {self.loss:.4f}")
        else:
            parts.append(f"loss {self.loss:.4f} on {self.samples:,} samples")
        if self.is_sequence and self.perplexity is not None:
            parts.append(f"perplexity {self.perplexity:.4g}, {self.bits_per_label:.4f} bit/label")
        parts += [f"{name} {value:.4g}" for name, value in self.metrics.items()]
        if self.comparison is not None:
            parts.append(str(self.comparison))
        return ", ".join(parts)

    def to_row(self) -> dict[str, float | int | None]:
        """List all numbers by name, as a table row; unknown ones are left out, except the accuracy."""
        row: dict[str, float | int | None] = {"accuracy": self.accuracy, "loss": self.loss, "samples": self.samples}
        if self.is_sequence:
            row |= {"labels": self.labels}
            if self.is_entropy:
                row |= {"perplexity": self.perplexity, "bits_per_label": self.bits_per_label}
        if self.comparison is not None:
            row |= {name: value for name, value in asdict(self.comparison).items() if value is not None}
        return row | dict(self.metrics)


def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Any, Any]],
    loss: Loss | None = None,
    progress: Progress = True,
    *,
    reference: nn.Module | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> Evaluation:
    """Measure loss and accuracy, in eval mode and without gradients.

    Afterwards the modes of all modules, the buffers and the random state are restored.

    Args:
        model: Any module.
        batches: (inputs, targets), moved to the model's device and, if its parameters share one floating dtype, to
            that dtype. Inputs are a tensor, a tuple or list of tensors (passed by position) or a dict of tensors
            (passed by name).
        loss: ``loss(output, target)``, the mean over a batch as one number, on the model's unchanged output; None
            is cross-entropy. Batches are weighted by the labels that the loss divides by, or if it has none by their
            samples: the rows of the first tensor of the targets (otherwise of the inputs).
        progress: See :data:`nbquant.progress.Progress`.
        reference: The model before quantization; adds ``comparison``: KL divergence, equal predictions, and the paired
            standard error of the change in accuracy; and ``reference``, that model's own evaluation.
        metrics: ``metric(output, target)`` by name, each the mean over a batch's samples as one number.

    Returns:
        Loss and samples; accuracy if the loss calls torch's cross-entropy with classes as targets, or outputs are
        class logits (n, C ≥ 2) and targets integers (n). Ignored labels (-100) are left out.

    Raises:
        ValueError: No batches, samples or labels, a loss or metric that is not one number, or not finite.
        TypeError: A batch that is not a pair, or no ``loss`` while the output is not a tensor.
    """
    counting = _Counting()
    counting_reference, comparing = _Counting(), Comparing()
    require("model", model, nn.Module, MODULE)
    if reference is not None:
        require("reference", reference, nn.Module, MODULE)
    device = device_of(model)
    with ExitStack() as stack:
        for network in filter(None, (model, reference)):
            stack.enter_context(undisturbed(network))
        for number, batch in enumerate(track(batches, "Evaluating", progress)):
            inputs, target, count = parts_of(batch, number, device, dtype_of(model))
            if count == 0:
                continue
            output, found = measured_output(model, inputs, target, loss)
            term = counting.add(output, target, found, number, count)
            for name, metric in (metrics or {}).items():
                counting.add_metric(name, metric(output, target), count)
            if reference is None:
                continue
            place = device_of(reference)
            goal = to_device(batch[1], place, dtype_of(reference))
            other_output, other = measured_output(
                reference, to_device(batch[0], place, dtype_of(reference)), goal, loss
            )
            other_term = counting_reference.add(other_output, goal, other, number, count)
            if term is not None and other_term is not None:
                comparing.add(term, other_term)
    if reference is None:
        return counting.result()
    return replace(counting.result(), comparison=comparing.result(), reference=counting_reference.result())


@dataclass
class _Counting:
    """Sums over batches."""

    total: float = 0.0
    mass: float = 0.0
    samples: int = 0
    labels: int = 0
    correct: int = 0
    classifies: bool = True
    is_entropy: bool = True
    metrics: dict[str, float] = field(default_factory=dict)

    def add(self, output: Any, target: Any, found: Recorded, number: int, count: int) -> Term | None:
        """Add a batch; returns the cross-entropy in its loss."""
        self.samples += count
        mass = found.mass(count)
        if mass > 0:
            value = float(found.value)
            if not math.isfinite(value):
                raise ValueError(
                    f"loss must be finite, but is {value} for batch {number}: look for NaN or infinity in weights and "
                    "inputs."
                )
            self.total, self.mass = self.total + mass * value, self.mass + mass
        term = softmax_term(found)
        if term is not None and term.target is not None:
            z, labels = labelled(term)
            assert labels is not None
        elif is_classification(output, target):
            kept = target != -100
            z, labels = output[kept], target[kept]
        else:
            self.classifies = self.is_entropy = False
            return term
        self.labels += len(labels)
        self.correct += int((z.argmax(-1) == labels).sum())
        self.is_entropy = self.is_entropy and term is not None and _is_plain(found, term)
        return term

    def add_metric(self, name: str, value: Any, count: int) -> None:
        if not isinstance(value, Tensor | float | int) or (isinstance(value, Tensor) and value.numel() != 1):
            came = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise ValueError(f"metric {name!r} must return one number per batch, but returned {came}: reduce it.")
        self.metrics[name] = self.metrics.get(name, 0.0) + count * float(value)

    def result(self) -> Evaluation:
        if self.samples == 0:
            raise ValueError(
                "at least one batch of one sample is required, but got none: an iterator that was used before "
                "is empty, so pass a list or a DataLoader."
            )
        if not self.mass:
            raise ValueError(f"at least one label must count, but all of {self.samples:,} samples are ignored (-100).")
        return Evaluation(
            accuracy=self.correct / self.labels if self.classifies and self.labels else None,
            loss=self.total / self.mass,
            samples=self.samples,
            labels=self.labels if self.classifies else 0,
            metrics={name: value / self.samples for name, value in self.metrics.items()},
            is_entropy=self.is_entropy,
        )


def _is_plain(found: Recorded, term: Term) -> bool:
    """Whether the loss is plain mean cross-entropy: no weights, smoothing or other terms."""
    if len(found.terms) != 1 or not term.is_plain or term.counts is None:
        return False
    ((own, slope),) = found.terms
    counts = float(term.counts.sum())
    explained = float((own.value.detach() * slope).sum())
    is_all = not counts or math.isclose(float(found.value), explained, rel_tol=1e-4, abs_tol=1e-7)
    return is_all and abs(found.mass(0) - counts) < 0.5


def measured_output(model: nn.Module, inputs: Any, target: Any, loss: Loss | None) -> tuple[Any, Recorded]:
    """Compute output and loss of a batch, and find the cross-entropy in it, even one inside the model."""
    seen: list[Any] = []

    def run() -> Any:
        seen.append(call(model, inputs))
        return loss_of(loss, seen[0], target)

    inside = record(run)
    if inside.terms or not inside.calls:
        return seen[0], inside
    return seen[0], record_loss(lambda output, target: loss_of(loss, output, target), seen[0], target)


def parts_of(
    batch: Any, number: int, device: torch.device | None, dtype: torch.dtype | None = None
) -> tuple[Any, Any, int]:
    """Move inputs and targets of a batch to a device, and count its samples.

    Raises:
        TypeError: Not a pair; names the batch by its index.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        length = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
        raise TypeError(
            f"batches must be pairs (inputs, targets), but batch {number} is a {type(batch).__name__}{length}: "
            "yield for example ((ids, mask), target) if there are several inputs."
        )
    inputs, target = to_device(batch[0], device, dtype), to_device(batch[1], device, dtype)
    return inputs, target, _samples(target) or _samples(inputs)


def loss_of(loss: Loss | None, output: Any, target: Any) -> Float[Tensor, ""]:
    """Compute the loss of a batch; cross-entropy if no loss is given.

    Raises:
        TypeError: No ``loss`` while the output is not a tensor.
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
            f"loss must return one number per batch, but returned {came}: reduce it, for example by .mean()."
        )
    return value if isinstance(value, Tensor) else torch.as_tensor(value)


def _samples(part: Any) -> int:
    """Rows of the first tensor in a nested batch; 0 if there is none."""
    if isinstance(part, Tensor):
        return len(part) if part.ndim else 0
    if isinstance(part, dict):
        part = tuple(part.values())
    return next(filter(None, map(_samples, part)), 0) if isinstance(part, tuple | list) else 0


def is_classification(output: Any, target: Any) -> bool:
    """Check whether outputs are class logits and targets their classes."""
    return (
        isinstance(output, Tensor)
        and isinstance(target, Tensor)
        and output.ndim == 2
        and output.shape[1] >= 2
        and target.shape == output.shape[:1]
        and not (target.is_floating_point() or target.is_complex() or target.dtype == torch.bool)
    )


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Set eval mode without gradients inside; modes, buffers and random state are restored."""
    device = device_of(model)
    on_gpu = device is not None and device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []), torch.no_grad(), in_eval_mode(model):
        yield
