"""What a layer's errors do together: second moments of what it sees, and how much the loss minds its outputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LayerMoments:
    """A layer's curvature as a product: ½ Σ_r s_r E(δ_r x)², the loss that errors δ of its rows predict.

    Of a layer whose inputs are x̂ where they were x, because the layers before it are quantized, the error of a row is
    w x − ŵ x̂. Behind x there is a 1 where there is a bias.

    Attributes:
        inputs: G = E[x̂ x̂ᵀ], over samples and places; one for each group of a convolution.
        cross: C = E[x x̂ᵀ]; G itself where no layer before has changed.
        outputs: s: mean over samples of the loss's squared gradients of each output, summed over places
            [loss/output²].
        bias: Whether the last input is that 1.
    """

    inputs: Float[Tensor, "groups d d"]
    cross: Float[Tensor, "groups d d"]
    outputs: Float[Tensor, " rows"]
    bias: bool


class Calibration(Protocol):
    """What knows the moments of layers.

    Attributes:
        outputs: s of each layer that it knows [loss/output²], in the order of their execution.
    """

    @property
    def outputs(self) -> Mapping[str, Float[Tensor, " rows"]]: ...  # noqa: D102

    def moments(self, layer: str, changed: Mapping[str, Float[Tensor, "..."]]) -> LayerMoments:
        """Moments of a layer, with other values of some parameters of the layers before it."""
        ...
