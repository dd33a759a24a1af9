"""Exact Hessian diagonal, one backward pass per weight: the oracle for small networks."""

import torch
from torch import Tensor

from nbquant.sensitivity.estimator import Estimator
from nbquant.sensitivity.layout import sized
from nbquant.sensitivity.loss import wide
from nbquant.sensitivity.problem import Estimate, Problem
from nbquant.sensitivity.second_order import loss_gradient, second_order

MAX_PARAMETERS = 20_000


def exact(problem: Problem) -> Estimate:
    """Compute the diagonal of the Hessian of the mean loss, by differentiating every entry of the gradient.

    Raises:
        ValueError: More than 20,000 parameters.
    """
    count = sum(p.numel() for p in problem.parameters.values())
    if count > MAX_PARAMETERS:
        raise ValueError(
            f"the exact Hessian diagonal takes one backward pass per parameter and is limited to {MAX_PARAMETERS:,}, "
            f'but {count:,} are chosen: choose fewer with parameters=, or use method="gauss_newton".'
        )
    total, samples, counted = problem.zeros(), 0, 0.0
    for batch in sized(problem):
        with second_order():
            gradients, mass = loss_gradient(problem, batch, first=samples == 0)
            samples, counted = samples + batch.size, counted + mass
            for (name, p), g in zip(problem.parameters.items(), gradients, strict=True):
                if g.requires_grad:
                    total[name] += mass * _diagonal(g, p).to(wide(p.dtype))
    return {name: h / (counted or 1.0) for name, h in total.items()}, samples


def _diagonal(gradient: Tensor, p: Tensor) -> Tensor:
    flat = gradient.reshape(-1)
    diagonal = torch.zeros_like(flat, requires_grad=False)
    for i in range(len(flat)):
        (row,) = torch.autograd.grad(flat[i], p, retain_graph=True, allow_unused=True)
        if row is None:  # the loss is linear in this parameter
            break
        diagonal[i] = row.reshape(-1)[i]
    return diagonal.reshape(p.shape)


EXACT = Estimator(exact, "exact (small nets)", "Exact Hessian diagonal, one column per weight: up to 20,000 weights")
