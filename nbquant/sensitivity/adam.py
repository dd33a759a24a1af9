"""Sensitivity from Adam's second moments, a by-product of training."""

import torch
from torch import Tensor

from nbquant.sensitivity.estimator import Estimator
from nbquant.sensitivity.loss import wide
from nbquant.sensitivity.problem import Estimate, Problem
from nbquant.sensitivity.second_order import loss_gradient

_DECAY = 0.999


def adam(problem: Problem) -> Estimate:
    """Compute √v, with v the running mean of squared mini-batch gradients [loss/weight: proportional to h at best].

    From ``problem.optimizer`` if there is one: Adam and its variants (bias-corrected), RMSprop, Adagrad. Otherwise
    accumulated in one pass over the batches with Adam's decay 0.999 and bias correction; no weight changes.

    Raises:
        ValueError: The optimizer keeps no second moment of a chosen parameter.

    Source: Kingma & Ba 2015 (arXiv:1412.6980); as a sensitivity, Choi et al. 2017 (arXiv:1612.01543), section 3.5.
    """
    if problem.optimizer is not None:
        return _from_optimizer(problem, problem.optimizer), 0
    total, samples, step = problem.zeros(), 0, 0
    for batch in problem:
        gradients, mass = loss_gradient(problem, batch, first=samples == 0, create_graph=False)
        if not mass:
            continue
        samples, step = samples + batch.size, step + 1
        for v, g in zip(total.values(), gradients, strict=True):
            v.mul_(_DECAY).add_(_dense(g).to(v.dtype).square(), alpha=1 - _DECAY)
    return {name: (v / (1 - _DECAY ** max(step, 1))).sqrt() for name, v in total.items()}, samples


def _dense(tensor: Tensor) -> Tensor:
    return tensor.to_dense() if tensor.is_sparse else tensor


def _from_optimizer(problem: Problem, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    betas = {id(p): group.get("betas") for group in optimizer.param_groups for p in group["params"]}
    found, missing = {}, []
    for name, p in problem.parameters.items():
        state = optimizer.state.get(p, {})
        step = float(state.get("step", 0))
        if "exp_avg_sq" in state:
            beta = (betas.get(id(p)) or (0.0, _DECAY))[1]
            v = state["exp_avg_sq"] / (1 - beta**step) if step else state["exp_avg_sq"]
        elif "square_avg" in state:
            v = state["square_avg"]
        elif "sum" in state:
            v = state["sum"] / max(step, 1)
        else:
            missing.append(name)
            continue
        # A factored second moment (Adafactor) has another shape and is not an Adam state.
        found[name] = v.detach().to(p.device, wide(p.dtype)).reshape(p.shape).sqrt()
    if missing:
        raise ValueError(
            f"{type(optimizer).__name__} must hold second moments of the {len(problem.parameters)} chosen parameters, "
            f"but has none for {len(missing)}, first {missing[0]!r}: train some steps with Adam, RMSprop or Adagrad on "
            "this very model, choose with parameters=, or leave optimizer out to gather them from the batches."
        )
    return found


ADAM = Estimator(
    adam, "√v of Adam", "Adam: square root of its second moments, a by-product of training", takes_optimizer=True
)
