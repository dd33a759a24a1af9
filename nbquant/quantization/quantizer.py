"""Interfaces of quantizers, and checks of their arguments."""

from typing import ClassVar, Protocol

import numpy as np
from jaxtyping import Float
from torch import Tensor

from nbquant.coding import codes
from nbquant.quantization.clusters import Clusters
from nbquant.quantization.histogram import Cells
from nbquant.quantization.members import ClusterSums, Members
from nbquant.quantization.parameter import Parameter
from nbquant.quantization.selection import Selection

Weights = Selection | Float[Tensor, "..."]


class Quantizer(Protocol):
    """A method with a value of its parameter and all its options; a frozen dataclass.

    Attributes:
        method: Name of the method, as in :func:`nbquant.fit`.
        parameter: The argument that sets the rate.
        weighted: Whether each weight counts by its sensitivity, or by the mean sensitivity.
        coding: Name of the code of the indices, see :mod:`nbquant.coding.codes`.
        per_layer: One codebook per layer, or one for the whole selection.
    """

    method: ClassVar[str]
    parameter: ClassVar[Parameter]

    @property
    def weighted(self) -> bool: ...  # noqa: D102

    @property
    def coding(self) -> str: ...  # noqa: D102

    @property
    def per_layer(self) -> bool: ...  # noqa: D102


class ScalarQuantizer(Quantizer, Protocol):
    """A quantizer that finds clusters on a histogram and refines them on the weights.

    Attributes:
        needs_rows: Whether cells depend on h, which requires a histogram with rows of h.
    """

    needs_rows: ClassVar[bool]

    def clusters(self, cells: Cells, near: Clusters | None = None) -> Clusters:
        """Find clusters on the cells of a histogram, at a cost that does not depend on the number of weights.

        Args:
            cells: The cells.
            near: Clusters of the same method at a nearby parameter, where a local search starts.
        """
        ...

    def refine(self, members: Members, start: Clusters) -> tuple[Float[np.ndarray, " k"], ClusterSums]:
        """Refine a codebook on the weights, and assign them to it.

        Args:
            members: The weights; swept over at least once.
            start: Clusters found on the cells.

        Returns:
            Means of the clusters of the last sweep (any value for an empty cluster), and their sums.
        """
        ...


def check_options(weighted: bool, coding: str, per_layer: bool) -> None:
    """Reject options of the wrong type or value."""
    for name, value in (("weighted", weighted), ("per_layer", per_layer)):
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, but got {value!r}")
    codes.named(coding)


def check_positive(name: str, value: float, unit: str, allow_zero: bool = False) -> None:
    """Reject a parameter that is not a finite number above zero."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"{name} must be a number [{unit}], but got {value!r}")
    if not np.isfinite(value) or value < 0 or (value == 0 and not allow_zero):
        least = "at least 0" if allow_zero else "above 0"
        raise ValueError(f"{name} must be finite and {least} [{unit}], but got {value!r}")
