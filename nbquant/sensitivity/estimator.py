"""The record of an estimator of the Hessian diagonal."""

from collections.abc import Callable
from dataclasses import dataclass

from nbquant.sensitivity.problem import Estimate, Problem


@dataclass(frozen=True)
class Estimator:
    """An estimator of sensitivities: everything the rest of the package needs to know about it.

    A new estimator is one file with its function and its record, and one line in
    :mod:`nbquant.sensitivity.estimators`.

    Attributes:
        estimate: Function from a problem to sensitivities; its name is the estimator's.
        label: Name in menus.
        description: One-line description.
        takes_optimizer: Whether it uses an optimizer's second moments.
    """

    estimate: Callable[[Problem], Estimate]
    label: str
    description: str
    takes_optimizer: bool = False

    @property
    def name(self) -> str:
        """Name, as in :func:`nbquant.sensitivity`."""
        return self.estimate.__name__
