"""What an estimator of the Hessian diagonal is."""

from collections.abc import Callable
from dataclasses import dataclass

from nbquant.sensitivity.problem import Estimate, Problem


@dataclass(frozen=True)
class Estimator:
    """An estimator of sensitivities: all that other rooms ask of it.

    A new estimator is one file, with its function and its record, and one line in
    :mod:`nbquant.sensitivity.estimators`.

    Attributes:
        estimate: From a problem to sensitivities; its name is that of the estimator.
        label: In menus.
        description: One line.
        takes_optimizer: Whether it can take an optimizer's second moments.
    """

    estimate: Callable[[Problem], Estimate]
    label: str
    description: str
    takes_optimizer: bool = False

    @property
    def name(self) -> str:
        """As in :func:`nbquant.sensitivity`."""
        return self.estimate.__name__
