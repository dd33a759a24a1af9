"""The result of quantizing: codebooks, assignments, and every bit they cost."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from nbquant.coding.ledger import Ledger
from nbquant.kernels import dispatch
from nbquant.quantization.quantizer import Quantizer
from nbquant.quantization.selection import SensitivityRecord

PRUNED = -1


@dataclass(frozen=True)
class Codebook:
    """Reconstruction values with their use and their code.

    Attributes:
        value: Reconstruction values c, ascending, in the dtype of the weights.
        counts: Members n_j of each cluster.
        codeword_length: Length ℓ_j of each codeword [bit].
    """

    value: Float[Tensor, " k"]
    counts: Int64[Tensor, " k"]
    codeword_length: Int64[Tensor, " k"]


@dataclass(frozen=True)
class QuantizedTensor:
    """One tensor as indices into a codebook.

    Attributes:
        codebook: Reconstruction values, shared with the other tensors of its group.
        assignment: Index of each weight's codeword, flattened; −1 marks a pruned weight, which is exactly zero.
        shape: Shape of the tensor.
    """

    codebook: Float[Tensor, " k"]
    assignment: Int[Tensor, " n"]
    shape: torch.Size

    def dequantize(self) -> Float[Tensor, "..."]:
        """The tensor of reconstruction values."""
        return dispatch.gather(self.codebook, self.assignment).reshape(self.shape)


@dataclass(frozen=True)
class Quantized:
    """A quantized selection.

    Attributes:
        quantizer: What made it.
        tensors: Parameter name to quantized tensor.
        codebooks: Group name to codebook: one group "all", or one a layer.
        ledger: Every stored bit of the selection by its part; sums to ``rate`` times the number of weights.
        distortion: ½ · mean h (w − c)² [loss/weight] under the selection's sensitivity (h = 1 if it has none); NaN
            after fine-tuning, which leaves the point that it predicts from.
        source_bits: Bits of the selected weights before.
        unselected_bits: Bits of the model's other parameters and buffers, stored as they are.
        record: How the sensitivities came about; None if there were none.
        finetuned: How the codebooks were fine-tuned, as names and plain values; empty if they were not.
    """

    quantizer: Quantizer
    tensors: Mapping[str, QuantizedTensor]
    codebooks: Mapping[str, Codebook]
    ledger: Ledger
    distortion: float
    source_bits: int
    unselected_bits: int = 0
    record: SensitivityRecord | None = None
    finetuned: Mapping[str, str | int | float | bool] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of weights N."""
        return sum(t.shape.numel() for t in self.tensors.values())

    @property
    def rate(self) -> float:
        """R [bit/weight], side information included."""
        return self.ledger.total / len(self)

    @property
    def compression_ratio(self) -> float:
        """Bits of the selected weights before, over all bits stored for them; infinite if every weight is zero."""
        return self.source_bits / self.ledger.total if self.ledger.total else math.inf

    @property
    def model_compression_ratio(self) -> float:
        """The same for the whole model, of which the rest is stored as it is."""
        stored = self.ledger.total + self.unselected_bits
        return (self.source_bits + self.unselected_bits) / stored if stored else math.inf

    @property
    def predicted_loss_increase(self) -> float:
        """N·D = ½ Σ h (w − c)² [loss]: what the diagonal of the Hessian predicts."""
        return self.distortion * len(self)

    @property
    def levels(self) -> int:
        """Number of reconstruction values in use, over all codebooks."""
        return sum(len(c.value) for c in self.codebooks.values())

    @property
    def codebook(self) -> Float[Tensor, " k"]:
        """Reconstruction values, ascending; where every layer has its own, see ``codebooks``."""
        return self._only().value

    @property
    def counts(self) -> Int64[Tensor, " k"]:
        """Members of each cluster; where every layer has its own, see ``codebooks``."""
        return self._only().counts

    @property
    def codeword_length(self) -> Int64[Tensor, " k"]:
        """Codeword lengths [bit]; where every layer has its own, see ``codebooks``."""
        return self._only().codeword_length

    def dequantize(self) -> dict[str, Float[Tensor, "..."]]:
        """Parameter name to tensor of reconstruction values."""
        return {name: tensor.dequantize() for name, tensor in self.tensors.items()}

    def apply(self, model: nn.Module) -> nn.Module:
        """A copy of the model with the quantized weights; the original is untouched.

        Raises:
            ValueError: The model lacks a quantized parameter, or has it in another shape.
        """
        quantized = copy.deepcopy(model)
        parameters = dict(quantized.named_parameters(remove_duplicate=False))
        for name, tensor in self.tensors.items():
            if name not in parameters:
                near = ", ".join(map(repr, get_close_matches(name, parameters) or list(parameters)[:3])) or "none"
                raise ValueError(
                    f"the model must have the parameter {name!r}, but among its {len(parameters)} "
                    f"parameters the nearest are {near}: apply to the model that was selected from"
                )
            if parameters[name].shape != tensor.shape:
                raise ValueError(
                    f"parameter {name!r} must have the shape {tuple(tensor.shape)}, but has "
                    f"{tuple(parameters[name].shape)}: apply to the model that was selected from"
                )
            with torch.no_grad():
                parameters[name].copy_(tensor.dequantize())
        return quantized

    def __repr__(self) -> str:
        return (
            f"Quantized({self.quantizer}, {len(self):,} weights, {self.levels} levels, "
            f"rate {self.rate:.4g} bit/weight, {self.compression_ratio:.4g}×, "
            f"predicted loss increase {self.predicted_loss_increase:.3g})"
        )

    def _only(self) -> Codebook:
        if len(self.codebooks) != 1:
            raise ValueError(
                f"one codebook is required here, but every layer has its own ({', '.join(self.codebooks)}): "
                f"use .codebooks[{next(iter(self.codebooks))!r}]"
            )
        return next(iter(self.codebooks.values()))
