"""Hutchinson's estimator: the diagonal of the true Hessian by random probes."""

import torch

from nbquant.sensitivity.estimator import Estimator
from nbquant.sensitivity.layout import sized
from nbquant.sensitivity.loss import wide
from nbquant.sensitivity.problem import Estimate, Problem
from nbquant.sensitivity.second_order import loss_gradient, second_order


def hutchinson(problem: Problem) -> Estimate:
    """Average v * (H v) over ``draws`` random sign vectors v, fresh for every batch.

    Unbiased, but the variance of an entry is the sum of the squares of its row of H off the diagonal: single estimates
    are often negative.

    Source: Bekas, Kokiopoulou, Saad, "An estimator for the diagonal of a matrix", 2007.
    """
    generator = problem.generator()
    parameters = list(problem.parameters.values())
    total, samples, counted = problem.zeros(), 0, 0.0
    for batch in sized(problem):
        with second_order():
            gradient, mass = loss_gradient(problem, batch, first=samples == 0)
            samples, counted = samples + batch.size, counted + mass
            curved = [(p, g) for p, g in zip(parameters, gradient, strict=True) if g.requires_grad]
            for _ in range(problem.draws if curved else 0):
                probe = {
                    name: torch.randint(0, 2, p.shape, generator=generator, device=generator.device).to(p) * 2 - 1
                    for name, p in problem.parameters.items()
                }
                signs = [v for v, g in zip(probe.values(), gradient, strict=True) if g.requires_grad]
                products = torch.autograd.grad(
                    [g for _, g in curved], parameters, signs, retain_graph=True, allow_unused=True
                )
                for (name, v), product in zip(probe.items(), products, strict=True):
                    if product is not None:
                        total[name] += (v * product).to(wide(product.dtype)) * (mass / problem.draws)
    return {name: h / (counted or 1.0) for name, h in total.items()}, samples


HUTCHINSON = Estimator(hutchinson, "Hutchinson", "Hutchinson: random probes of the true Hessian, noisy")
