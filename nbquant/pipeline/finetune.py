"""Fine-tuning of codebook values, with fixed assignments."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from nbquant.models.evaluate import Loss
from nbquant.pipeline.loop import (
    MakeOptimizer,
    Training,
    evaluated,
    made,
    require_count,
    require_repeatable,
    seeded,
    steps_of,
    ticking,
)
from nbquant.pipeline.shared import SharedValues
from nbquant.progress import Progress
from nbquant.quantization.quantized import Quantized
from nbquant.required import MODULE, QUANTIZED, require

Gradient = Literal["mean", "sum"]
LEARNING_RATE = 0.03
"""Learning rate for the mean gradient; for the sum it is divided by the mean cluster size."""

MOMENTUM = 0.9


@dataclass(frozen=True)
class Epoch:
    """Losses and accuracy after an epoch.

    Attributes:
        epoch: Index; 0 is before the first.
        train_loss: Mean loss during the epoch [loss/sample]; None for index 0.
        validation_loss: Mean loss on the validation batches after it; None without validation.
        validation_accuracy: Accuracy on them; None without validation, or if the network does not classify.
    """

    epoch: int
    train_loss: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None


@dataclass(frozen=True, eq=False)
class FineTuned:
    """A quantized selection with fine-tuned values.

    Attributes:
        quantized: The selection with the values of epoch ``kept``.
        kept: Epoch of these values; 0 if no epoch improved on the initial ones.
        history: One record per epoch, with epoch 0 for the initial values.
        step_loss: Mean loss of each training batch, before its step.
    """

    quantized: Quantized
    kept: int
    history: tuple[Epoch, ...]
    step_loss: tuple[float, ...]

    def to_frame(self) -> pd.DataFrame:
        """Tabulate the epochs: ``epoch``, ``train_loss``, ``validation_loss``, ``validation_accuracy``, ``kept``."""
        frame = pd.DataFrame([asdict(epoch) for epoch in self.history])
        for column in ("train_loss", "validation_loss", "validation_accuracy"):
            frame[column] = frame[column].astype(float)
        return frame.assign(kept=frame["epoch"] == self.kept)

    def __repr__(self) -> str:
        return f"FineTuned({self.quantized}, epoch {self.kept} of {len(self.history) - 1})"


def finetune(
    quantized: Quantized,
    model: nn.Module,
    batches: Iterable[tuple[Any, Any]],
    *,
    epochs: int = 1,
    gradient: Gradient = "mean",
    optimizer: MakeOptimizer | None = None,
    lr: float | None = None,
    loss: Loss | None = None,
    validation: Iterable[tuple[Any, Any]] | None = None,
    keep_best: bool | Literal["loss", "accuracy"] = False,
    seed: int = 0,
    progress: Progress = True,
) -> FineTuned:
    """Train the reconstruction values of a quantized network, each shared by all weights of its cluster.

    Assignments are fixed; pruned weights and values that are exactly zero stay zero, and the rest of the model is
    unchanged. Batch norms, and all other modules with buffers, run in eval mode: their statistics are stored unchanged,
    so values must be fitted to them. Everything else, such as dropout, is in training mode. Values are trained in
    float32 or wider; each forward pass uses them rounded to the stored dtype. The values of "trellis" and
    "feedback" lie on grids that their codes exploit; off these grids the same clusters take more bits.

    Args:
        quantized: Result of :func:`nbquant.fit`.
        model: The model selected from; copied, not changed.
        batches: (inputs, targets), as for :func:`nbquant.evaluate`; iterated once per epoch. The package's own
            ``Batches`` are shuffled each time, anything else keeps its order.
        epochs: Number of epochs.
        gradient: Gradient of a value: the mean over the gradients of its weights, or their sum. The mean corresponds to
            a step on the weights, averaged over each cluster; learning rates are then those of the
            network. The sum is the derivative of the loss with respect to the value, larger by the number of
            weights.
        optimizer: Makes a torch optimizer from parameters, and ``lr`` if given, such as ``torch.optim.SGD`` or
            ``lambda p: torch.optim.AdamW(p, lr=1e-4, weight_decay=0)``; or an optimizer and its learning-rate schedule,
            stepped after each batch. None is SGD with momentum 0.9 and a learning rate that falls linearly to zero (if
            the number of batches is known).
        lr: Learning rate; None leaves it to the optimizer, or is 0.03 for the default one (divided by the mean
            cluster size for ``gradient="sum"``).
        loss: As for :func:`nbquant.evaluate`; must be differentiable.
        validation: Batches to evaluate on before the first epoch and after each.
        keep_best: Keep the values of the epoch of least validation loss, or of greatest accuracy; True is "loss". The
            initial values count as epoch 0.
        seed: Seed of the order of the samples, and of torch's random numbers used by dropout or a
            DataLoader. The same seed gives the same values on the same machine (on a GPU as far as its kernels do);
            the global random state is restored.
        progress: See :data:`nbquant.progress.Progress`; counts steps. After cancelling nothing has changed.

    Returns:
        New values in a new selection, the losses, and the epoch of the values.

    Raises:
        ValueError: A model that does not fit, nothing to train or to train on, a loss that becomes infinite or NaN, an
            iterator where batches are needed more than once, or arguments out of range.
        TypeError: Arguments or batches of other types.
        Cancelled: By ``progress``.

    Source: Choi et al. 2017 (arXiv:1612.01543), section 5; the sum after Han et al. 2016 (arXiv:1510.00149).
    """
    require("quantized", quantized, Quantized, QUANTIZED)
    require("model", model, nn.Module, MODULE)
    quantized.require_codebooks("finetune")
    if gradient not in get_args(Gradient):
        raise ValueError(f"gradient must be one of {', '.join(get_args(Gradient))}, but got {gradient!r}")
    by = "loss" if keep_best is True else keep_best
    if by not in (False, "loss", "accuracy"):
        raise ValueError(f'keep_best must be True, False, "loss" or "accuracy", but got {keep_best!r}')
    if by and validation is None:
        raise ValueError("keep_best needs validation batches to tell which epoch is best: pass validation=…")
    require_count("epochs", epochs)
    require_repeatable(batches, "batches", epochs)
    if validation is not None:
        require_repeatable(validation, "validation", epochs + 1)
    with seeded(model, seed):
        network = quantized.apply(model)
        shared = SharedValues.of(quantized, network, mean=gradient == "mean")
        _set_modes(network)
        if optimizer is None:
            rate = LEARNING_RATE / (1 if gradient == "mean" else shared.mean_members) if lr is None else lr
            optimizer, lr = _default(rate, steps_of((batches, epochs))), None
        made_optimizer, schedule = made(optimizer, lr, shared.trained)
        training = Training(network, batches, made_optimizer, schedule, loss, shared.write, shared.collect)
        values: list[dict[str, Tensor] | None] = [None]
        steps: list[float] = []
        work = steps_of((batches, epochs), (validation, epochs + 1))
        with ticking(work, "Fine-tuning", progress) as ticks:
            history = [_record(0, None, network, validation, loss, ticks)]
            for epoch, losses in enumerate(training.epochs(epochs, ticks), 1):
                _require_finite(shared, made_optimizer, epoch)
                history.append(_record(epoch, losses.mean, network, validation, loss, ticks))
                values.append(shared.snapshot() if by or epoch == epochs else None)
                steps += losses.steps
    kept = _best(history, by) if by else epochs
    return FineTuned(
        quantized
        if kept == 0
        else quantized.with_values(
            values[kept] or {},
            {
                "epochs": kept,
                "gradient": gradient,
                "optimizer": type(made_optimizer).__name__,
                "lr": float(made_optimizer.defaults.get("lr", math.nan)),
                "seed": seed,
            },
        ),
        kept,
        tuple(history),
        tuple(steps),
    )


def _default(lr: float, steps: int | None) -> MakeOptimizer:
    """Momentum, and a learning rate that falls to zero, so that the values average out batch noise."""

    def make(parameters: Iterable[nn.Parameter]) -> tuple[torch.optim.Optimizer, LRScheduler]:
        optimizer = torch.optim.SGD(parameters, lr=lr, momentum=MOMENTUM)
        return optimizer, LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps) if steps else 1.0)

    return make


def _set_modes(network: nn.Module) -> None:
    for module in network.modules():
        module.training = not any(buffer is not None for buffer in module._buffers.values())


def _record(
    epoch: int,
    train_loss: float | None,
    network: nn.Module,
    validation: Iterable[tuple[Any, Any]] | None,
    loss: Loss | None,
    ticks: Iterator[object],
) -> Epoch:
    if validation is None:
        return Epoch(epoch, train_loss)
    found = evaluated(network, validation, loss, ticks)
    return Epoch(epoch, train_loss, found.loss, found.accuracy)


def _best(history: list[Epoch], by: str) -> int:
    """The first epoch of least loss, or of greatest accuracy and among those of least loss."""

    def merit(epoch: Epoch) -> tuple[float, float]:
        assert epoch.validation_loss is not None
        if by == "accuracy" and epoch.validation_accuracy is None:
            raise ValueError(
                'keep_best="accuracy" needs a network that classifies, but there is no accuracy: pass keep_best="loss"'
            )
        return (epoch.validation_accuracy or 0.0) if by == "accuracy" else 0.0, -epoch.validation_loss

    return max(history, key=merit).epoch


def _require_finite(shared: SharedValues, optimizer: torch.optim.Optimizer, epoch: int) -> None:
    if all(value.isfinite().all() for value in shared.values.values()):
        return
    rates = ", ".join(f"{group['lr']:g}" for group in optimizer.param_groups)
    raise ValueError(f"values must stay finite, but do not in epoch {epoch}: lower lr (it is {rates}).")
