"""Sampled diagonal of the generalized Gauss-Newton matrix, for the price of a gradient."""

from nbquant.sensitivity.per_sample import squared_gradient_sums
from nbquant.sensitivity.problem import Estimate, Problem


def gauss_newton_sampled(problem: Problem) -> Estimate:
    """Unbiased estimate of :func:`~nbquant.sensitivity.gauss_newton.gauss_newton`, ``draws`` random vectors a sample.

    For cross-entropy the vector is the gradient for a label drawn from the network's own prediction (the true Fisher
    information); for any other loss, random signs times a factor of its Hessian.
    """
    generator = problem.generator()
    return squared_gradient_sums(problem, lambda loss: loss.draws(problem.draws, generator), independent=True).mean()
