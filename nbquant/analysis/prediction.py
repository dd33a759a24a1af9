"""Taylor prediction of the loss change caused by quantization, against its measurement."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from nbquant.losses import Loss, record_loss
from nbquant.nested import call, map_tensors
from nbquant.progress import Progress, track
from nbquant.quantization.quantized import Quantized
from nbquant.sensitivity.batch import Batch
from nbquant.sensitivity.loss import wide
from nbquant.sensitivity.problem import Problem, undisturbed
from nbquant.sensitivity.second_order import loss_gradient, second_order


@dataclass(frozen=True)
class LossPrediction:
    """Change of the mean loss by the quantization error δ; all [loss].

    Attributes:
        gradient: gᵀδ, with the gradient g at the original weights.
        diagonal: ½ Σ h δ², the objective of the quantizers.
        quadratic: ½ δᵀHδ, with the full Hessian H at the original weights.
        measured: Loss after quantization minus loss before.
        samples: Number of samples averaged over (except in ``diagonal``).
        gauss_newton: ½ δᵀGδ, with the Gauss-Newton matrix G = mean JᵀH_zJ at the outputs z; None if not requested.
    """

    gradient: float
    diagonal: float
    quadratic: float
    measured: float
    samples: int
    gauss_newton: float | None = None

    @property
    def second_order(self) -> float:
        """gᵀδ + ½ δᵀHδ."""
        return self.gradient + self.quadratic


def predict_loss(
    model: nn.Module,
    quantized: Quantized,
    batches: Iterable[Any],
    sensitivity: Mapping[str, Tensor] | None,
    loss: Loss | None = None,
    progress: Progress = True,
    *,
    gauss_newton: bool = False,
) -> LossPrediction:
    """Predict the change of the loss from its derivatives, and measure it on the same batches.

    Each batch takes two forward and two backward passes, and with the Gauss-Newton matrix one more forward and two more
    backward, with one graph in memory at a time. The model is evaluated in eval mode; its modes, gradients and the
    random state are restored.

    Args:
        model: The model selected from.
        quantized: Result of :func:`nbquant.fit`.
        batches: Pairs (inputs, target), as for :func:`nbquant.sensitivity`.
        sensitivity: Parameter name -> h [loss/weight²], used as they are; None for h = 1.
        loss: Loss of a batch from (output, target), the mean over its samples; cross-entropy if None.
        progress: See :data:`nbquant.progress.Progress`; counts batches.
        gauss_newton: Whether to compute ½ δᵀGδ; the loss must then depend on the parameters through the output only.

    Raises:
        TypeError: A loss that does not return a tensor.
        ValueError: Another model; sensitivities that lack a tensor or have another shape; no batches; a loss that is
            not one finite number, or a sum over the batch.
        RuntimeError: From torch, where the model has no second derivative.
        Cancelled: By ``progress``.
    """
    parameters = quantized.parameters_of(model)
    diagonal = _diagonal(quantized, parameters, sensitivity)
    after = quantized.apply(model).eval()
    change = {name: after.get_parameter(name).detach() - p.detach() for name, p in parameters.items()}
    ticking = track(batches, "prediction", progress)
    problem = Problem(model, parameters, ticking, loss or functional.cross_entropy, progress=False)
    totals, samples, counted = np.zeros(4), 0, 0.0
    with undisturbed(model, parameters.values()), second_order():
        for batch in problem:
            gradient, quadratic = _derivatives(problem, batch, change, first=samples == 0)
            before, mass = _loss(problem, model, batch)
            measured = _loss(problem, after, batch)[0] - before
            if not mass:
                continue
            curvature = _gauss_newton(problem, batch, change) if gauss_newton else 0.0
            totals += mass * np.array([gradient, quadratic, measured, curvature])
            samples, counted = samples + batch.size, counted + mass
    gradient, quadratic, measured, curvature = (totals / (counted or 1.0)).tolist()
    return LossPrediction(gradient, diagonal, quadratic, measured, samples, curvature if gauss_newton else None)


def _diagonal(
    quantized: Quantized, parameters: Mapping[str, nn.Parameter], sensitivity: Mapping[str, Tensor] | None
) -> float:
    total = 0.0
    for name, parameter in parameters.items():
        tensor, h = quantized.tensors[name], None
        if sensitivity is not None:
            if name not in sensitivity or sensitivity[name].shape != parameter.shape:
                came = f"has the shape {tuple(sensitivity[name].shape)}" if name in sensitivity else "is missing"
                raise ValueError(
                    f"sensitivities must have shape {tuple(parameter.shape)} for {name!r}, but it {came}: estimate "
                    "them for this model, or pass None"
                )
            h = sensitivity[name].reshape(-1).to(parameter.device)
        losses = tensor.losses(parameter.detach().reshape(-1), h)
        total += float(losses[:, 2].sum())
    return total


def _derivatives(problem: Problem, batch: Batch, change: Mapping[str, Tensor], first: bool) -> tuple[float, float]:
    """gᵀδ and ½δᵀHδ of one batch; its graph is freed on return."""
    parameters, steps = list(problem.parameters.values()), list(change.values())
    gradient, _ = loss_gradient(problem, batch, first)
    slope = _dot(gradient, steps)
    curved = [(g, d) for g, d in zip(gradient, steps, strict=True) if g.requires_grad]
    if not curved:
        return slope, 0.0
    products = torch.autograd.grad(
        [g for g, _ in curved], parameters, [d for _, d in curved], allow_unused=True, materialize_grads=True
    )
    return slope, 0.5 * _dot(products, steps)


def _gauss_newton(problem: Problem, batch: Batch, change: Mapping[str, Tensor]) -> float:
    """½ (Jδ)ᵀ H_z (Jδ) of one batch, with H_z the Hessian of its mean loss with respect to its outputs z.

    Jδ is computed by two backward passes, as forward-mode derivatives lack operations that the Hessian needs: Jᵀv is
    linear in v, and the gradient of (Jᵀv)ᵀδ with respect to v is Jδ.
    """
    output = problem.call(batch)
    found: dict[int, Tensor] = {}
    map_tensors(lambda z: found.setdefault(id(z), z), output)
    outputs = [z for z in found.values() if z.requires_grad]
    if not outputs:
        return 0.0
    dummies = [torch.zeros_like(z, requires_grad=True) for z in outputs]
    parameters = list(problem.parameters.values())
    back = torch.autograd.grad(
        outputs, parameters, dummies, create_graph=True, allow_unused=True, materialize_grads=True
    )
    pairs = [(b, d) for b, d in zip(back, change.values(), strict=True) if b.requires_grad]
    if not pairs:
        return 0.0
    moved = torch.autograd.grad(
        [b for b, _ in pairs], dummies, [d for _, d in pairs], allow_unused=True, materialize_grads=True
    )
    replaced = {id(z): z.detach().requires_grad_(True) for z in outputs}
    loss, _ = problem.mean_loss(map_tensors(lambda z: replaced.get(id(z), z), output), batch)
    leaves = [replaced[id(z)] for z in outputs]
    slopes = torch.autograd.grad(loss, leaves, create_graph=True, allow_unused=True, materialize_grads=True)
    curved = [(s, u) for s, u in zip(slopes, moved, strict=True) if s.requires_grad]
    if not curved:
        return 0.0
    products = torch.autograd.grad(
        [s for s, _ in curved], leaves, [u for _, u in curved], allow_unused=True, materialize_grads=True
    )
    return 0.5 * _dot(products, moved)


def _dot(left: Iterable[Float[Tensor, "..."]], right: Iterable[Float[Tensor, "..."]]) -> float:
    pairs = ((a.detach().reshape(-1), b.reshape(-1)) for a, b in zip(left, right, strict=True))
    return sum(float(torch.dot(a.to(wide(a.dtype)), b.to(wide(b.dtype)))) for a, b in pairs)


def _loss(problem: Problem, model: nn.Module, batch: Batch) -> tuple[float, float]:
    """Mean loss of a batch, and the number of terms it averages."""
    with torch.no_grad():
        found = record_loss(problem.loss, call(model, batch.inputs), batch.target)
    mass = found.mass(batch.size)
    problem.check(found, batch, mass)
    return float(found.value), mass
