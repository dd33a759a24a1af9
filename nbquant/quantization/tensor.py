"""A selected parameter tensor with its sensitivities."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from nbquant.tensorfile import FileSlice


@dataclass(frozen=True, eq=False)
class SelectedTensor:
    """One parameter tensor of a selection.

    Attributes:
        name: Parameter name, as in ``model.named_parameters()``; tied parameters have one entry, under their first
            name.
        layer: Name of the module that owns it, for codebooks per layer.
        weight: The weights, in their own shape, dtype and device, detached; a checkpoint's are mapped from disk
            and read, unchecked, when accessed.
        sensitivity: Hessian diagonal h [loss/weight²] of the same shape and device; None if not given.
        weight_source: Location of the weights on disk; None for a module's.
        sensitivity_source: Location of the sensitivities on disk, likewise.
    """

    name: str
    layer: str
    weight: Float[Tensor, "..."]
    sensitivity: Float[Tensor, "..."] | None = None
    weight_source: FileSlice | None = None
    sensitivity_source: FileSlice | None = None
