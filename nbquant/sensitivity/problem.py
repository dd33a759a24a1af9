"""The input of an estimator: a model, its parameters, a loss, and samples."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nbquant.eval_mode import in_eval_mode
from nbquant.losses import Loss, Recorded, record
from nbquant.nested import call, map_tensors
from nbquant.progress import Progress, track
from nbquant.sensitivity.batch import Batch, first_tensor
from nbquant.sensitivity.loss import OutputLoss, output_loss, wide

Estimate = tuple[dict[str, Tensor], int]
"""Sensitivities by parameter name, not yet clamped, and the number of samples used."""


@dataclass(frozen=True)
class Problem:
    """Inputs of an estimator.

    Attributes:
        model: The network, in eval mode.
        parameters: The chosen parameters by their first name.
        batches: Pairs (inputs, target).
        loss: Mean loss of a batch, from output and target.
        draws: Number of random draws, for estimators that use them.
        seed: Seed of the draws.
        optimizer: Optimizer whose second moments are used, for "adam".
        progress: See :data:`nbquant.progress.Progress`.
    """

    model: nn.Module
    parameters: dict[str, nn.Parameter]
    batches: Iterable[Any]
    loss: Loss
    draws: int = 1
    seed: int = 0
    optimizer: torch.optim.Optimizer | None = None
    progress: Progress = True

    @property
    def device(self) -> torch.device:
        """Device of the parameters (of the first one, if there are several)."""
        return next(iter(self.parameters.values())).device

    def generator(self) -> torch.Generator:
        """Make a new random generator, independent of the global one."""
        return torch.Generator(self.device).manual_seed(self.seed)

    def zeros(self) -> dict[str, Tensor]:
        """Make a zero sum for every parameter, in float32 or wider."""
        return {
            name: torch.zeros_like(p, dtype=wide(p.dtype), memory_format=torch.contiguous_format, requires_grad=False)
            for name, p in self.parameters.items()
        }

    def __iter__(self) -> Iterator[Batch]:
        """The batches, checked, on the model's device and in its floating dtype.

        Raises:
            ValueError: No batches, or a batch that is not a pair of inputs and target.
        """
        dtypes = {p.dtype for p in self.model.parameters() if p.dtype.is_floating_point}
        dtype = dtypes.pop() if len(dtypes) == 1 else None

        def place(tensor: Tensor) -> Tensor:
            return tensor.to(self.device, dtype if tensor.is_floating_point() else None)

        if not isinstance(self.batches, Iterable):
            parts = [name for name in ("calibration", "train", "test") if hasattr(self.batches, name)]
            advice = f"pass its .{parts[0]}" if parts else "pass [(inputs, target)] for one batch, or a DataLoader"
            raise TypeError(
                f"batches must give pairs (inputs, target), but a {type(self.batches).__name__} came: {advice}."
            )
        seen = 0
        for pair in track(self.batches, "Sensitivity", self.progress):
            if not (isinstance(pair, tuple | list) and len(pair) == 2):
                got = (
                    f"{type(pair).__name__} of length {len(pair)}" if hasattr(pair, "__len__") else type(pair).__name__
                )
                raise ValueError(
                    f"batches must give pairs (inputs, target), but one is a {got}: "
                    "pass [(inputs, target)] for one batch."
                )
            inputs, target = (map_tensors(place, part) for part in pair)
            leader = next((t for t in (first_tensor(target), first_tensor(inputs)) if t is not None), None)
            if leader is None:
                raise ValueError("a batch must hold at least one tensor with samples along its first dimension.")
            if leader.shape[0] == 0:
                continue
            seen += 1
            yield Batch(inputs, target, leader.shape[0])
        if not seen:
            raise ValueError("batches must hold at least one batch with a sample, but it is empty (or used up).")

    def call(self, batch: Batch) -> Any:
        """Run the model on a batch."""
        return call(self.model, batch.inputs)

    def output_loss(
        self, output: Any, outputs: Sequence[Tensor], axes: tuple[int, ...] | None, batch: Batch
    ) -> OutputLoss:
        """Express the loss of a batch by some tensors of the model's output, unchecked; see :func:`output_loss`.

        Raises:
            TypeError: No loss while the output is not a tensor.
        """
        return output_loss(self._loss_of(output), output, outputs, axes, batch.target, batch.size)

    def mean_loss(self, output: Any, batch: Batch) -> tuple[Tensor, float]:
        """Compute the loss of a batch, and the number of terms it averages; see :meth:`nbquant.losses.Recorded.mass`.

        Raises:
            TypeError, ValueError: As :meth:`check`.
        """
        found = record(lambda: self._loss_of(output)(output, batch.target))
        mass = found.mass(batch.size)
        self.check(found, batch, mass)
        return found.value, mass

    def _loss_of(self, output: Any) -> Loss:
        if self.loss is functional.cross_entropy and not isinstance(output, Tensor):
            raise TypeError(
                f"without loss=… the model must return a tensor of class logits, but it returned "
                f"{type(output).__name__}: pass loss=lambda output, target: … that picks what it needs."
            )
        return self.loss

    def check(self, found: Recorded, batch: Batch, mass: float) -> None:
        """Refuse a loss that is not one finite number.

        Raises:
            TypeError: The loss is not a tensor.
            ValueError: The loss is not scalar, or not finite although labels count.
        """
        value = found.value
        if not isinstance(value, Tensor):
            raise TypeError(f"loss must return a tensor, but it returned {type(value).__name__}.")
        if value.ndim:
            raise ValueError(
                f"loss must return one number, the mean over the batch, but it returned shape {tuple(value.shape)}: "
                'use reduction="mean".'
            )
        if mass > 0 and not math.isfinite(value.item()):
            raise ValueError(
                f"the loss of a batch of {batch.size} samples is {value.item()}, not finite: check inputs and weights."
            )

    def check_mean(self, output: Any, batch: Batch) -> None:
        """Refuse a loss that is a sum over the batch, where that can be detected.

        Raises:
            ValueError: The loss of the batch is the sum of the losses of its samples, not their mean.
        """
        target, few = batch.target, min(batch.size, 4)
        if not isinstance(output, Tensor) or not isinstance(target, Tensor) or few < 2:
            return
        if not output.ndim or not target.ndim or len(output) != len(target):
            return
        z, target = output[:few].detach(), target[:few]
        try:
            with torch.no_grad():
                total = sum(float(self.loss(z[n : n + 1], target[n : n + 1])) for n in range(few))
                together = float(self.loss(z, target))
        except Exception:  # raised by a loss that accepts whole batches only
            return
        if abs(total) > 1e-12 and abs(together - total) < 1e-3 * abs(total):
            raise ValueError(
                f"loss must be the mean over the batch, but on {few} samples it is {together:.4g}, the sum of theirs: "
                'use reduction="mean".'
            )


@contextmanager
def undisturbed(model: nn.Module, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Prepare ``model`` for derivatives with respect to ``parameters`` alone, and restore it in any case.

    Eval mode, gradients on, random state kept, and no fused kernel without a derivative.
    """
    grads = [(p, p.requires_grad) for p in model.parameters()]
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    fast = torch.backends.mha.get_fastpath_enabled()
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices))
            stack.enter_context(torch.enable_grad())
            if any(_is_compiled(module) for module in model.modules()):  # compiled code ignores hooks
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            if recurrent:  # fused recurrences have no backward pass in eval mode, or no second one
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            torch.backends.mha.set_fastpath_enabled(False)
            stack.enter_context(in_eval_mode(model))
            for p, _ in grads:
                p.requires_grad_(False)
            for p in parameters:
                p.requires_grad_(True)
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for p, needed in grads:
            p.requires_grad_(needed)


def _is_compiled(module: nn.Module) -> bool:
    """Whether it comes from torch.compile(), or its own compile() was called."""
    return type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None
