"""One selected parameter tensor with its sensitivities."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from nbquant.tensorfile import FileSlice


@dataclass(frozen=True, eq=False)
class SelectedTensor:
    """One parameter tensor of a selection.

    Attributes:
        name: Parameter name, as in ``model.named_parameters()``; tied ones have one entry, under their first name.
        layer: Name of the module that owns it; the unit of "per layer".
        weight: The weights, in their own shape, dtype and device, detached; those of a checkpoint are read from disk
            as they are looked at, and what is in them has not been checked.
        sensitivity: Hessian diagonal h [loss/weight²] of the same shape and device; None if it was not given.
        weight_source: Where the weights are on disk; None for those of a module.
        sensitivity_source: The same of the sensitivities.
    """

    name: str
    layer: str
    weight: Float[Tensor, "..."]
    sensitivity: Float[Tensor, "..."] | None = None
    weight_source: FileSlice | None = None
    sensitivity_source: FileSlice | None = None
