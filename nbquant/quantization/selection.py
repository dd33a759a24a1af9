"""Selections: the tensors to be quantized, with their sensitivities."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from nbquant.quantization.moments import Calibration
from nbquant.quantization.shards import Shards
from nbquant.quantization.tensor import SelectedTensor
from nbquant.quantization.validate import checked_sensitivity, checked_weight, require_positive_somewhere
from nbquant.quantization.workers import Workers


@dataclass(frozen=True)
class SensitivityRecord:
    """Origin of the sensitivities of a selection; stored with the result.

    Attributes:
        method: Name of the estimator; "given" or "file" if unknown.
        samples: Number of samples used; 0 if unknown or none.
        damping: ε of h + ε·mean(h) already added to the sensitivities.
        offset: Further addition to each h [loss/weight²].
    """

    method: str = "given"
    samples: int = 0
    damping: float = 0.0
    offset: float = 0.0


_WHOLE_WEIGHTS = ("f8", "float8", "i8", "int8")  # types of which each entry is one weight


@dataclass(frozen=True)
class LeftOut:
    """Weights that were requested but left out: already quantized, or of a type that cannot be quantized.

    Attributes:
        tensors: Number of tensors.
        weights: Number of their entries; an entry of packed integers is one weight or several.
        of: Number of entries of all weights of the model.
        dtypes: Their dtypes.
    """

    tensors: int
    weights: int
    of: int
    dtypes: tuple[str, ...]

    @property
    def share(self) -> float:
        """Share of the model's weights, in [0, 1]; for packed integers a lower bound."""
        return self.weights / self.of

    def __str__(self) -> str:
        at_least = "" if all(dtype.lower().startswith(_WHOLE_WEIGHTS) for dtype in self.dtypes) else "at least "
        return (
            f"{self.tensors:,} {'tensor' if self.tensors == 1 else 'tensors'} in {', '.join(self.dtypes)} with "
            f"{at_least}{self.weights:,} of {self.of:,} weights ({100 * self.share:.1f} %)"
        )


@dataclass(frozen=True, eq=False)
class Selection:
    """Tensors chosen to be quantized together.

    Attributes:
        tensors: The chosen tensors, in the model's order; never empty.
        unselected_bits: Bits of the model's other parameters and buffers, stored unchanged.
        unselected_count: Number of the model's other parameters (buffers are not weights and do not count).
        record: Origin of the sensitivities; None without sensitivities.
        calibration: Source of the layers' moments, for error feedback; None if not given.
        shards: Ranks that each hold a part of every tensor; None if all of it is here. Numbers
            of weights and bits are over all ranks.
        workers: Workers that sweep over it, if it is on disk; None for this process.
        left_out: Requested weights that cannot be quantized; None if there are none.
    """

    tensors: tuple[SelectedTensor, ...]
    unselected_bits: int = 0
    unselected_count: int = 0
    record: SensitivityRecord | None = None
    calibration: Calibration | None = None
    shards: Shards | None = None
    workers: Workers | None = None
    left_out: LeftOut | None = None

    def __repr__(self) -> str:
        h = "without sensitivities" if self.record is None else f"sensitivities: {self.record.method}"
        calibrated = ", calibrated" if self.calibration is not None else ""
        return (
            f"Selection({len(self):,} weights in {len(self.tensors)} tensors of {len(self.layers)} layers, {h}"
            f"{calibrated}, {self.source_bits / 8e6:.3g} MB)"
        )

    def __len__(self) -> int:
        """Number of weights N."""
        return sum(map(self.count, self.tensors))

    def count(self, tensor: SelectedTensor) -> int:
        """Count the weights of a tensor, over all ranks."""
        return tensor.weight.numel() if self.shards is None else self.shards.counts[tensor.name]

    def bits(self, tensor: SelectedTensor) -> int:
        """Count the bits of a tensor's weights before quantization."""
        return 8 * tensor.weight.element_size() * self.count(tensor)

    def require_whole(self, what: str) -> None:
        """Refuse a selection of which this process does not hold all weights.

        Raises:
            ValueError: Ranks hold shards.
        """
        if self.shards is not None:
            raise ValueError(
                f"{what} needs all weights in one process, but ranks hold shards of them: use kmeans, uniform or ecsq "
                "with huffman or fixed codes, or gather the model first."
            )

    def __iter__(self) -> Iterator[SelectedTensor]:
        return iter(self.tensors)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, in the model's order."""
        return tuple(dict.fromkeys(t.layer for t in self.tensors))

    @property
    def weight(self) -> Float[Tensor, " n"]:
        """All weights, flattened and joined."""
        return torch.cat([t.weight.reshape(-1) for t in self.tensors])

    @property
    def sensitivity(self) -> Float[Tensor, " n"] | None:
        """All sensitivities, flattened and joined; None if any tensor has none."""
        parts = [t.sensitivity for t in self.tensors]
        return None if any(p is None for p in parts) else torch.cat([p.reshape(-1) for p in parts if p is not None])

    @property
    def source_bits(self) -> int:
        """N·b: bits of the weights before quantization."""
        return sum(map(self.bits, self.tensors))

    def by_layer(self) -> dict[str, "Selection"]:
        """Split into one selection per layer."""
        return {
            layer: Selection(
                tuple(t for t in self.tensors if t.layer == layer), shards=self.shards, workers=self.workers
            )
            for layer in self.layers
        }

    def part(self, layers: Collection[str]) -> "Selection":
        """Restrict to some of the layers; the others count as unselected. No weight is read.

        Args:
            layers: Names of layers of this selection.

        Raises:
            ValueError: No layer, layers without weights, or one that is not selected.
        """
        chosen = {layers} if isinstance(layers, str) else set(layers)
        unknown = chosen - {t.layer for t in self.tensors}
        kept = tuple(t for t in self.tensors if t.layer in chosen)
        if unknown or not any(map(self.count, kept)):
            came = f"{min(unknown)!r} is not among them" if unknown else f"layers={sorted(chosen)} came"
            raise ValueError(
                f"at least one weight in the {len(self.layers)} layers of this selection is required, but {came}: "
                "choose from its .layers."
            )
        left = [t for t in self.tensors if t.layer not in chosen]
        return Selection(
            kept,
            self.unselected_bits + sum(map(self.bits, left)),
            self.unselected_count + sum(map(self.count, left)),
            self.record,
            self.calibration,
            self.shards,
            self.workers,
            self.left_out,
        )

    def damped(self, offset: float) -> "Selection":
        """Add ``offset`` [loss/weight²] to every sensitivity, copying them in memory."""
        if offset == 0:
            return self
        tensors = (
            replace(t, sensitivity=t.sensitivity + offset, sensitivity_source=None) if t.sensitivity is not None else t
            for t in self.tensors
        )
        record = self.record and replace(self.record, offset=self.record.offset + offset)
        return replace(self, tensors=tuple(tensors), record=record, workers=None)


def as_selection(weight: object, sensitivity: object = None) -> Selection:
    """Make a selection of a plain tensor with its sensitivity; a selection is returned unchanged.

    Raises:
        TypeError: Neither a selection nor a floating-point tensor; a sensitivity beside a selection.
        ValueError: No weights; NaN or infinite entries; a sensitivity of another shape, negative or all zero.
    """
    if isinstance(weight, Selection):
        if sensitivity is not None:
            raise TypeError("sensitivity comes with the selection: pass it to select(), not to fit()")
        return weight
    weight = checked_weight(weight, "weight")
    if sensitivity is not None:
        sensitivity = checked_sensitivity(sensitivity, weight, "weight")
        require_positive_somewhere([sensitivity])
    record = SensitivityRecord() if sensitivity is not None else None
    return Selection((SelectedTensor("weight", "weight", weight, sensitivity),), record=record)
