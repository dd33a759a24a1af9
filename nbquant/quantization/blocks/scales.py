"""Scales by which levels become weights, and how formats read them from their parts."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32

from nbquant.quantization.blocks.grid import NONE_1


@dataclass(frozen=True)
class Scales:
    """What codes are dequantized with: ŵ = scale · (level − zero) + minimum, one of each for a group of weights."""

    scale: Float32[np.ndarray, " groups"]
    zero: Float32[np.ndarray, " groups"] = field(default_factory=lambda: NONE_1)
    minimum: Float32[np.ndarray, " groups"] = field(default_factory=lambda: NONE_1)

    def __getitem__(self, groups: slice) -> "Scales":
        return Scales(self.scale[groups], self.zero[groups], self.minimum[groups])


def scale_alone(parts: Mapping[str, np.ndarray]) -> Scales:
    """Read formats whose only part is a scale."""
    return Scales(parts["scale"].astype(np.float32).reshape(-1))


def scale_and_zero(parts: Mapping[str, np.ndarray]) -> Scales:
    """Read formats with a scale and a zero point."""
    zero = parts["zero_point"].astype(np.float32).reshape(-1)
    return Scales(parts["scale"].astype(np.float32).reshape(-1), zero=zero)
