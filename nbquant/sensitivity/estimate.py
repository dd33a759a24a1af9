"""The entry point of sensitivity estimation: checks its arguments and runs an estimator."""

import math
import re
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nbquant.losses import Loss
from nbquant.progress import Progress
from nbquant.registry import nearest
from nbquant.required import MODULE, require
from nbquant.sensitivity import estimators
from nbquant.sensitivity.problem import Problem, undisturbed
from nbquant.sensitivity.result import Sensitivity

_NO_DERIVATIVE = re.compile("derivative for .* is not implemented")  # as torch says it


def sensitivity(
    model: nn.Module,
    batches: Iterable[Any],
    method: str = estimators.DEFAULT.name,
    *,
    loss: Loss | None = None,
    damping: float = 0.0,
    draws: int = 1,
    seed: int = 0,
    optimizer: torch.optim.Optimizer | None = None,
    parameters: Iterable[str] | None = None,
    progress: Progress = True,
) -> Sensitivity:
    """Estimate the sensitivity of every weight: the Hessian diagonal of the mean loss, or an approximation of it.

    The model is evaluated in eval mode, and its modes, gradients, hooks and the random state are restored.

    Args:
        model: Any network.
        batches: Pairs (inputs, target); inputs are a tensor, a tuple or list of arguments, or a dict of named ones.
            Moved to the model's device. Whatever the split into batches, h is that of the mean over all samples, or
            over the labels that count if the loss divides by these (ignored labels, class weights).
        method: Name of an estimator, see :data:`nbquant.sensitivity.estimators.ESTIMATORS`; the default is the sampled
            Gauss-Newton diagonal.
        loss: Loss of a batch from (output, target), the mean over its samples; cross-entropy if None. It gets the
            model's unchanged output: a tensor, tuple, dict or dataclass. Losses that end in one of torch's have
            closed forms; others are differentiated twice, up to 2,048 outputs per sample.
        damping: ε of h + ε·mean(h); see :meth:`Sensitivity.damped`.
        draws: Random draws per sample ("gauss_newton_sampled") or per batch ("hutchinson"). Parameters without a
            formula use squared gradients of groups of samples, 64 in total or as many as the cost allows.
        seed: Seed of the draws.
        optimizer: Optimizer whose second moments are used, for "adam" only.
        parameters: Names of the parameters; None for all floating-point ones that require gradients.
        progress: See :data:`nbquant.progress.Progress`.

    Returns:
        h [loss/weight²] by parameter name, non-negative. Parameters on which the loss does not depend have h = 0: they
        are listed in ``inactive``, and a warning names them.

    Raises:
        TypeError: A loss or a model that does not return a tensor.
        ValueError: An unknown method or parameter, no batches, a loss that is not scalar, a loss or sensitivity that is
            not finite, all sensitivities zero, or a network that the method does not support.
        nbquant.progress.Cancelled: By ``progress``.
    """
    require("model", model, nn.Module, MODULE)
    estimator = estimators.named(method)
    if not (math.isfinite(damping) and damping >= 0):
        raise ValueError(f"damping must be finite and at least 0, but it is {damping}.")
    if draws < 1:
        raise ValueError(f"draws must be at least 1, but it is {draws}.")
    if optimizer is not None and not estimator.takes_optimizer:
        takers = " and ".join(e.name for e in estimators.ESTIMATORS if e.takes_optimizer)
        raise ValueError(f"optimizer is used by {takers} only, but the method is {method!r}: leave it out.")
    chosen = _choose(model, parameters)
    problem = Problem(model, chosen, batches, loss or functional.cross_entropy, draws, seed, optimizer, progress)
    with undisturbed(model, chosen.values()):
        try:
            raw, samples = estimator.estimate(problem)
        except RuntimeError as error:
            if not _NO_DERIVATIVE.match(str(error)):
                raise
            raise ValueError(
                f"{method!r} requires the second derivative of the loss, but torch has none ({error}): write the loss "
                'with other functions, or use method="adam"'
            ) from error
    raw = {name: h.detach().reshape(chosen[name].shape) for name, h in raw.items()}
    return _finish(raw, method, samples).damped(damping)


def _choose(model: nn.Module, names: Iterable[str] | None) -> dict[str, nn.Parameter]:
    everything = dict(model.named_parameters())
    if names is None:
        chosen = {name: p for name, p in everything.items() if p.requires_grad and p.is_floating_point()}
        if not chosen:
            raise ValueError(
                f"the model must have a trainable floating-point parameter, but none of its {len(everything)} is: "
                "set requires_grad, or name those to estimate: nbquant.sensitivity(…, parameters=['fc.weight'])."
            )
        return chosen
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise ValueError("parameters must name at least one parameter, but it is empty: None takes all trainable ones.")
    first = {id(p): name for name, p in everything.items()}
    aliases = dict(model.named_parameters(remove_duplicate=False))
    wanted = set()
    for name in names:
        if name not in aliases:
            raise ValueError(
                f"parameters must name parameters of the model, but {name!r} is none{nearest(name, list(aliases))}."
            )
        if not aliases[name].is_floating_point():
            raise ValueError(
                f"parameter {name!r} must be floating-point, but it is {aliases[name].dtype}: leave it out."
            )
        wanted.add(first[id(aliases[name])])
    return {name: p for name, p in everything.items() if name in wanted}


def _finish(raw: dict[str, Tensor], method: str, samples: int) -> Sensitivity:
    clamped = {}
    for name, h in raw.items():
        bad = int((~torch.isfinite(h)).sum())
        if bad:
            raise ValueError(
                f"sensitivities must be finite, but {bad} of {h.numel()} of parameter {name!r} are not: "
                "check its weights, or compute in a wider dtype."
            )
        negative = int((h < 0).sum())
        if negative:
            clamped[name] = negative
    tensors = {name: h.clamp(min=0) for name, h in raw.items()}
    if not any(h.any() for h in tensors.values()):
        count = sum(clamped.values())
        reason = (
            f"{count} were negative and set to 0"
            if count
            else "the loss does not depend on these parameters, has no curvature (an absolute error has none), or all "
            "labels are ignored"
        )
        raise ValueError(
            f"all sensitivities of the {len(tensors)} parameters are zero ({reason}): "
            'check loss and model, or use method="adam".'
        )
    inactive = tuple(name for name, h in raw.items() if not h.any())
    if inactive:
        warnings.warn(
            f"h is zero for {', '.join(map(repr, inactive))}: the loss does not depend on them on these samples.",
            stacklevel=3,
        )
    return Sensitivity(tensors, method, samples, clamped, inactive=inactive)
