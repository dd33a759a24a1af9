"""Sampled diagonal of the generalized Gauss-Newton matrix, at the cost of a gradient."""

from nbquant.sensitivity.estimator import Estimator
from nbquant.sensitivity.per_sample import squared_gradient_sums
from nbquant.sensitivity.problem import Estimate, Problem


def gauss_newton_sampled(problem: Problem) -> Estimate:
    """Estimate the diagonal of the Gauss-Newton matrix without bias, with ``draws`` random vectors per sample.

    The vectors are random signs times a factor of the loss's Hessian in the outputs. They have mean zero and are
    independent between samples, so for layers without a formula the squared gradient of a group of samples estimates
    the sum of their squares.

    Source: the estimate by groups after Liu et al. 2023 (Sophia, arXiv:2305.14342), who draw labels.
    """
    generator = problem.generator()
    return squared_gradient_sums(problem, lambda loss: loss.draws(problem.draws, generator), independent=True).mean()


GAUSS_NEWTON_SAMPLED = Estimator(
    gauss_newton_sampled, "Gauss-Newton, sampled", "Gauss-Newton diagonal, sampled: unbiased, as quick as a gradient"
)
