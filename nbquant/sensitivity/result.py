"""Sensitivities with their record: the result of an estimator."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from jaxtyping import Float
from torch import Tensor

from nbquant.quantization.selection import SensitivityRecord


@dataclass(frozen=True, repr=False, eq=False)
class Sensitivity(Mapping[str, Tensor]):
    """Sensitivity h of every chosen parameter: a mapping from names to tensors of the parameters' shapes.

    Attributes:
        tensors: Parameter name -> h [loss/weight²], non-negative, float32 or wider, on the parameter's device; tied
            parameters once, under their first name.
        method: Name of the estimator.
        samples: Number of samples used; 0 if none (second moments of a given optimizer).
        clamped: Parameter name -> number of its entries that were negative and set to 0; empty if none were.
        damping: ε of h + ε·mean(h), as already added to ``tensors``.
        inactive: Parameters with h = 0 everywhere, before clamping: the loss does not depend on them.
    """

    tensors: dict[str, Float[Tensor, "..."]]
    method: str
    samples: int
    clamped: dict[str, int] = field(default_factory=dict)
    damping: float = 0.0
    inactive: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Float[Tensor, "..."]:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    @property
    def count(self) -> int:
        """Number of weights, over all parameters."""
        return sum(h.numel() for h in self.tensors.values())

    @property
    def record(self) -> SensitivityRecord:
        """Origin of the sensitivities, for the results made with them."""
        return SensitivityRecord(self.method, self.samples, self.damping)

    @cached_property
    def mean(self) -> float:
        """Mean of h over all entries of all parameters [loss/weight²]."""
        return sum(h.double().sum().item() for h in self.tensors.values()) / max(self.count, 1)

    def damped(self, epsilon: float) -> "Sensitivity":
        """Add a fraction of the mean to every entry: h + ε·mean(h), without estimating again.

        The mean is over all parameters, so that layers stay comparable.

        Args:
            epsilon: ε [1], at least 0.

        Raises:
            ValueError: A negative or non-finite ε.
        """
        if not (math.isfinite(epsilon) and epsilon >= 0):
            raise ValueError(f"damping must be finite and at least 0, but it is {epsilon}.")
        if epsilon == 0:
            return self
        offset = epsilon * self.mean
        # Damping twice multiplies: h + ε₁m, whose mean is (1 + ε₁)m, becomes h + (ε₁ + ε₂ + ε₁ε₂)m.
        return replace(
            self,
            tensors={name: h + offset for name, h in self.tensors.items()},
            damping=self.damping + epsilon + self.damping * epsilon,
        )

    def __repr__(self) -> str:
        parts = [
            f"{len(self)} parameters, {self.count:,} weights",
            f"{self.samples:,} samples",
            f"mean {self.mean:.3g}",
        ]
        if self.clamped:
            parts.append(f"{sum(self.clamped.values()):,} negative entries set to 0")
        if self.damping:
            parts.append(f"damping {self.damping:g}")
        if self.inactive:
            parts.append(f"zero throughout: {', '.join(self.inactive)}")
        return f"Sensitivity({self.method}: {'; '.join(parts)})"
