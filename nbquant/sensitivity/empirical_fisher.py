"""Empirical Fisher information: squared gradients at the true labels."""

from nbquant.sensitivity.loss import gradient
from nbquant.sensitivity.per_sample import mean_squared_gradients
from nbquant.sensitivity.problem import Estimate, Problem


def empirical_fisher(problem: Problem) -> Estimate:
    """Mean over the samples of the squared gradient of a sample's loss.

    Not the Hessian, nor an unbiased estimate of it: it vanishes where every sample is fitted. Kunstner et al.
    (arXiv:1905.12558) say when it misleads.
    """
    return mean_squared_gradients(
        problem, lambda z, target: [(1.0, gradient(problem.loss, z, target).detach().unsqueeze(0))]
    )
