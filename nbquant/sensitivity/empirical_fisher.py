"""Empirical Fisher information: squared gradients at the true labels."""

from collections.abc import Iterator

from torch import Tensor

from nbquant.sensitivity.estimator import Estimator
from nbquant.sensitivity.loss import Block, OutputLoss
from nbquant.sensitivity.per_sample import squared_gradient_sums
from nbquant.sensitivity.problem import Estimate, Problem


def empirical_fisher(problem: Problem) -> Estimate:
    """Compute the mean over samples of the squared gradient of each sample's loss.

    It is neither the Hessian nor an unbiased estimate of it: it vanishes where every sample is fitted. See Kunstner et
    al. (arXiv:1905.12558) on when it misleads.
    """
    sums = squared_gradient_sums(problem, _gradient, independent=False)
    factor = sums.samples / (sums.mass or 1.0) ** 2
    return {name: square * factor for name, square in sums.squares.items()}, sums.samples


def _gradient(loss: OutputLoss) -> Iterator[Block]:
    """Gradient of mass · L, which is a sum over samples."""
    vectors: list[Tensor | None] = [slope.unsqueeze(0) * loss.mass for slope in loss.gradient()]
    yield 1.0, vectors


EMPIRICAL_FISHER = Estimator(
    empirical_fisher, "empirical Fisher", "Empirical Fisher: squared gradients at the true labels, biased"
)
