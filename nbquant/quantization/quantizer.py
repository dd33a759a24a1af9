"""What every quantizer can do."""

from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

import numpy as np
from jaxtyping import Float
from torch import Tensor

from nbquant.progress import Progress
from nbquant.quantization.clusters import Clusters
from nbquant.quantization.histogram import Cells
from nbquant.quantization.members import Members, Sums
from nbquant.quantization.selection import Selection

if TYPE_CHECKING:
    from nbquant.quantization.quantized import Quantized

Weights = Selection | Float[Tensor, "..."]
Coding = Literal["huffman", "fixed", "arithmetic", "context"]
CODINGS: tuple[Coding, ...] = ("huffman", "fixed", "arithmetic", "context")


class Quantizer(Protocol):
    """Parameters at construction, data at the call.

    Attributes:
        method: Name of the method, as in :func:`nbquant.fit`.
        parameter: Name of the one argument that sets the rate.
        needs_rows: Whether cells depend on h, so that the solver needs the histogram's rows of h.
        weighted: Whether each weight counts by its sensitivity; if not, by the mean sensitivity.
        coding: "huffman" or "fixed" codeword lengths, "arithmetic" coding by frequencies, or adaptively by "context".
        per_layer: A codebook for each layer, or one for the whole selection.
    """

    method: ClassVar[str]
    parameter: ClassVar[str]
    needs_rows: ClassVar[bool]

    @property
    def weighted(self) -> bool: ...  # noqa: D102

    @property
    def coding(self) -> Coding: ...  # noqa: D102

    @property
    def per_layer(self) -> bool: ...  # noqa: D102

    def clusters(self, cells: Cells, near: Clusters | None = None) -> Clusters:
        """Clusters on the cells of a histogram, at a cost that does not depend on the number of weights.

        Args:
            cells: The cells.
            near: Clusters of the same method at a parameter close by, for those that search to set out from.
        """
        ...

    def refine(self, members: Members, start: Clusters) -> tuple[Float[np.ndarray, " k"], Sums]:
        """Codebook from the weights themselves, which are left assigned to it.

        Args:
            members: The weights, to be swept over at least once.
            start: Clusters found on the cells, to go on from.

        Returns:
            The means of the clusters of the last sweep (any value for one without members), and their sums.
        """
        ...

    def fit(
        self, weight: Weights, sensitivity: Float[Tensor, "..."] | None = None, progress: Progress = False
    ) -> "Quantized":
        """Quantize a selection, or a plain tensor with its sensitivity."""
        ...


def check_options(weighted: bool, coding: str, per_layer: bool) -> None:
    """Refuse options of the wrong kind."""
    for name, value in (("weighted", weighted), ("per_layer", per_layer)):
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, but got {value!r}")
    if coding not in CODINGS:
        raise ValueError(f"coding must be one of {', '.join(CODINGS)}, but got {coding!r}")


def check_positive(name: str, value: float, unit: str, allow_zero: bool = False) -> None:
    """Refuse a parameter that is not a finite number above zero."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"{name} must be a number [{unit}], but got {value!r}")
    if not np.isfinite(value) or value < 0 or (value == 0 and not allow_zero):
        least = "at least 0" if allow_zero else "above 0"
        raise ValueError(f"{name} must be finite and {least} [{unit}], but got {value!r}")
