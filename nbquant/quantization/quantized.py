"""Quantized selections: codebooks, assignments and the ledger of all their bits."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from typing import Any, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from nbquant.coding.ledger import Ledger
from nbquant.duplicate import duplicate
from nbquant.kernels import dispatch
from nbquant.quantization.accuracy_loss import AccuracyLoss
from nbquant.quantization.codebook import Codebook, QuantizedTensor
from nbquant.quantization.members import index_dtype
from nbquant.quantization.parametrize import look_up, register_lookups
from nbquant.quantization.quantizer import Quantizer
from nbquant.quantization.rate import lengths_for, position_ledger, tensor_gaps
from nbquant.quantization.selection import Selection, SensitivityRecord
from nbquant.quantization.shards import Shards
from nbquant.quantization.streams import coded, group_of


@dataclass(frozen=True)
class Quantized:
    """A quantized selection.

    Attributes:
        quantizer: The quantizer that made it.
        tensors: Quantized tensors by parameter name.
        codebooks: Codebooks by group: one group "all", or one per layer.
        ledger: Every stored bit of the selection, by part; sums to ``rate`` times the number of weights.
        distortion: ½ · mean h (w − c)² [loss/weight] under the selection's sensitivity (h = 1 if it has none); NaN
            after fine-tuning, which invalidates the prediction.
        source_bits: Bits of the selected weights before quantization.
        unselected_bits: Bits of the model's other parameters and buffers, stored unchanged.
        record: Origin of the sensitivities; None without sensitivities.
        finetuned: Settings of the fine-tuning, as names and plain values; empty without it.
        shards: Ranks that each hold a part of every tensor; None if all of it is here.
        accuracy: The accuracy that it was found to lose, where that was the target; None otherwise.
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
    shards: Shards | None = None
    accuracy: AccuracyLoss | None = None

    @staticmethod
    def of(
        quantizer: Quantizer,
        selection: Selection,
        tensors: Mapping[str, QuantizedTensor],
        codebooks: Mapping[str, Codebook],
        ledger: Ledger,
        loss: float,
    ) -> "Quantized":
        """Make the result of a selection; ``loss`` is ½ Σ h (w − c)² [loss]."""
        return Quantized(
            quantizer=quantizer,
            tensors=tensors,
            codebooks=codebooks,
            ledger=ledger,
            distortion=loss / len(selection),
            source_bits=selection.source_bits,
            unselected_bits=selection.unselected_bits,
            record=selection.record,
            shards=selection.shards,
        )

    def __len__(self) -> int:
        """Number of weights N."""
        if self.shards is not None:
            return sum(self.shards.counts[name] for name in self.tensors)
        return sum(t.shape.numel() for t in self.tensors.values())

    @property
    def rate(self) -> float:
        """Rate R [bit/weight], side information included."""
        return self.ledger.total / len(self)

    @property
    def compression_ratio(self) -> float:
        """Bits of the selected weights before quantization over all bits stored for them; infinite if all are zero."""
        return self.source_bits / self.ledger.total if self.ledger.total else math.inf

    @property
    def model_compression_ratio(self) -> float:
        """The same ratio for the whole model, whose other tensors are stored unchanged."""
        stored = self.ledger.total + self.unselected_bits
        return (self.source_bits + self.unselected_bits) / stored if stored else math.inf

    @property
    def predicted_loss_increase(self) -> float:
        """N·D = ½ Σ h (w − c)² [loss]: the prediction by the Hessian diagonal."""
        return self.distortion * len(self)

    @property
    def levels(self) -> int:
        """Number of reconstruction values in use, over all codebooks."""
        return sum(len(c.value) for c in self.codebooks.values())

    @property
    def pruned(self) -> bool:
        """Whether zeros are left out, and stay exactly zero."""
        return "position_payload" in self.ledger

    @property
    def codebook(self) -> Float[Tensor, " k"]:
        """Reconstruction values, ascending; with a codebook per layer, see ``codebooks``."""
        return self._only().value

    @property
    def counts(self) -> Int64[Tensor, " k"]:
        """Number of weights in each cluster; with a codebook per layer, see ``codebooks``."""
        return self._only().counts

    @property
    def codeword_length(self) -> Int64[Tensor, " k"] | Float[Tensor, " k"]:
        """Codeword lengths [bit]; with a codebook per layer, see ``codebooks``."""
        return self._only().codeword_length

    def dequantize(self) -> dict[str, Float[Tensor, "..."]]:
        """Look up the reconstruction values of all tensors, by parameter name."""
        return {name: tensor.dequantize() for name, tensor in self.tensors.items()}

    def group_of(self, name: str) -> str:
        """Find the group of a tensor: the only one, or its layer's."""
        return group_of(name, self.codebooks)

    def centres(self, group: str) -> tuple[Float[Tensor, " k"], Int64[Tensor, " k"]]:
        """Compute the typical weight of each codeword, ascending, and the codewords' indices in this order.

        These are the reconstruction values. In a block format, where a codeword restores to many weights, it is their
        mean; if there are negative levels their mean magnitude with the level's sign, as scales may be negative.
        """
        book = self.codebooks[group]
        if book.levels is None:
            return book.value, torch.arange(len(book.value), device=book.value.device)
        if group not in self._centres:
            self._centres[group] = self._typical_weights(group, book)
        return self._centres[group]

    @cached_property
    def _centres(self) -> dict[str, tuple[Float[Tensor, " k"], Int64[Tensor, " k"]]]:
        """Centres in block formats by group, as far as they were computed: that restores all weights."""
        return {}

    def _typical_weights(self, group: str, book: Codebook) -> tuple[Float[Tensor, " k"], Int64[Tensor, " k"]]:
        total = torch.zeros(len(book.value), dtype=torch.float64)
        signed = bool((book.value < 0).any())
        for name, tensor in self.tensors.items():
            if self.group_of(name) == group:
                restored = tensor.dequantize().double().cpu().reshape(-1)
                total.index_add_(0, tensor.assignment.long().cpu(), restored.abs() if signed else restored)
        mean = total / book.counts * (book.value.sign() if signed else 1)
        return mean.sort(stable=True)

    def codebook_of(self, group: str) -> Codebook:
        """Find a codebook in units of the weights, ascending; see :meth:`centres`."""
        book = self.codebooks[group]
        if book.levels is None:
            return book
        value, order = self.centres(group)
        return Codebook(value, book.counts[order], book.codeword_length[order])

    def apply(self, model: nn.Module) -> nn.Module:
        """Copy the model with the quantized weights; the original is unchanged.

        Raises:
            ValueError: The model lacks a quantized parameter, or has it in another shape.
        """
        quantized = duplicate(model)
        for name, parameter in self.parameters_of(quantized).items():
            with torch.no_grad():
                parameter.copy_(self.tensors[name].dequantize())
        return quantized

    def parametrize(self, model: nn.Module) -> nn.Module:
        """Copy the model with trainable codebooks and indices in place of the quantized weights.

        Each weight is computed from ``parametrizations.weight[0].codebook``, one Parameter shared by all tensors of a
        group, and ``.assignment``, a buffer. Any optimizer can train it; the gradient of a value is the sum of its
        members' gradients. Pruned weights and codewords that are exactly zero stay zero. Tied parameters stay tied.
        ``torch.nn.utils.parametrize.remove_parametrizations`` makes it a dense parameter again, and
        ``torch.nn.utils.parametrize.cached`` computes each weight once where a model uses it several times.

        Raises:
            ValueError: The model lacks a quantized parameter, has it in another shape, or in a recurrent layer, which
                reads its weights around parametrizations.
        """
        self.require_codebooks("parametrize")
        parametrized = duplicate(model)
        parameters = self.parameters_of(parametrized)
        device = {self.group_of(name): parameter.device for name, parameter in parameters.items()}
        codebooks = {g: nn.Parameter(book.value.to(device[g], copy=True)) for g, book in self.codebooks.items()}
        lookups = {
            name: look_up(
                codebooks[self.group_of(name)],
                self.codebooks[self.group_of(name)].value,
                self.tensors[name].assignment,
                parameter,
            )
            for name, parameter in parameters.items()
        }
        register_lookups(parametrized, lookups)
        return parametrized

    def parameters_of(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Find the parameters of a model for the quantized tensors, by name.

        Raises:
            ValueError: The model lacks one, or has it in another shape.
        """
        self.require_whole()
        parameters = self.named_in(model)
        for name, tensor in self.tensors.items():
            if parameters[name].shape != tensor.shape:
                raise ValueError(
                    f"parameter {name!r} must have the shape {tuple(tensor.shape)}, but has "
                    f"{tuple(parameters[name].shape)}: apply to the model that was selected from"
                )
        return parameters

    def named_in(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Find the parameters of a model with the names of the quantized tensors, of any shape.

        Raises:
            ValueError: The model lacks one.
        """
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for name in self.tensors:
            if name not in parameters:
                near = ", ".join(map(repr, get_close_matches(name, parameters) or list(parameters)[:3])) or "none"
                raise ValueError(
                    f"the model must have the parameter {name!r}, but among its {len(parameters)} "
                    f"parameters the nearest are {near}: apply to the model that was selected from"
                )
        return {name: parameters[name] for name in self.tensors}

    def require_whole(self) -> None:
        """Refuse a quantization whose assignment is not all in this process.

        Raises:
            ValueError: Ranks hold shards of it.
        """
        if self.shards is not None:
            raise ValueError(
                "a whole quantization is required, but ranks hold shards of this one: pass the result of "
                "nbquant.gather_quantized(quantized, model) on all of them."
            )

    def require_codebooks(self, what: str) -> None:
        """Refuse a quantization whose weights are not the values of codebooks.

        Raises:
            ValueError: A block format, which scales them.
        """
        if any(tensor.scaling is not None for tensor in self.tensors.values()):
            raise ValueError(
                f"{what} requires weights that are values of a codebook, but {self.quantizer.method} scales them by "
                "blocks: use one of the other methods."
            )

    def with_values(
        self,
        values: Mapping[str, Float[Tensor, " k"]],
        finetuned: Mapping[str, str | int | float | bool] | None = None,
    ) -> "Quantized":
        """Replace the reconstruction values and keep the clusters.

        Values are rounded to the codebook's dtype, and a value that was exactly zero stays zero. Where two become
        equal, their clusters are merged; where they change order, they are renumbered. Code and ledger are updated.

        Args:
            values: New values of each group, in the order of the old ones.
            finetuned: The new attribute ``finetuned``.

        Returns:
            A new object; its distortion is NaN.

        Raises:
            ValueError: Other groups, another number of values, or values that are not finite in the codebook's dtype.
        """
        self.require_codebooks("with_values")
        if values.keys() != self.codebooks.keys():
            raise ValueError(
                f"values must be given for the groups {', '.join(map(repr, self.codebooks))}, but are for "
                f"{', '.join(map(repr, values)) or 'none'}: change a copy of each of .codebooks"
            )
        codebooks, order = {}, {}
        for group, book in self.codebooks.items():
            codebooks[group], order[group] = _changed(book, values[group], group, self.quantizer.coding)
        tensors = {}
        for name, tensor in self.tensors.items():
            value, index = codebooks[self.group_of(name)].value, order[self.group_of(name)]
            assignment = tensor.assignment
            if not torch.equal(index, torch.arange(len(value), device=index.device)):
                shifted = (index + 1).to(index_dtype(len(value)))
                assignment = dispatch.gather(shifted.to(assignment.device), assignment).sub_(1)  # −1 gathers 0
            own = value.to(tensor.codebook.device, tensor.codebook.dtype)
            tensors[name] = QuantizedTensor(own, assignment, tensor.shape)
        # Positions do not depend on the values.
        positions = Ledger({part: bits for part, bits in self.ledger.items() if part.startswith("position_")})
        of_positions = (lambda: positions) if self.pruned else None
        tensors, ledger = coded(tensors, codebooks, self.quantizer.coding, of_positions)
        return replace(
            self,
            tensors=tensors,
            codebooks=codebooks,
            ledger=ledger,
            distortion=math.nan,
            finetuned=dict(finetuned or {}),
            accuracy=None,
        )

    def with_coding(self, coding: str) -> "Quantized":
        """Encode the same clusters by another code: weights and distortion stay the same, and only the size changes.

        ``nbquant.fit`` with another ``coding`` may find other clusters, since the code is part of what it optimizes.
        Trellis and feedback choose levels for "context"; with another code they may take more bits than ECSQ.

        Args:
            coding: Name of the code: "huffman", "fixed", "arithmetic" or "context".

        Raises:
            ValueError: An unknown code, one that the quantizer does not support, or ranks that hold shards.
        """
        self.require_whole()
        quantizer: Quantizer = replace(cast(Any, self.quantizer), coding=coding)  # every quantizer is a dataclass
        codebooks = {}
        for group, book in self.codebooks.items():
            length = torch.from_numpy(lengths_for(book.counts.cpu().numpy(), coding)).to(book.counts.device)
            codebooks[group] = replace(book, codeword_length=length)
        tensors = {name: replace(tensor, streams=None) for name, tensor in self.tensors.items()}

        def of_positions() -> Ledger:
            return position_ledger([tensor_gaps(tensor.assignment + 1) for tensor in tensors.values()])

        tensors, ledger = coded(tensors, codebooks, coding, of_positions if self.pruned else None)
        return replace(self, quantizer=quantizer, tensors=tensors, codebooks=codebooks, ledger=ledger)

    def __repr__(self) -> str:
        return (
            f"Quantized({self.quantizer}, {len(self):,} weights, {self.levels} levels, "
            f"rate {self.rate:.4g} bit/weight, {self.compression_ratio:.4g}×{self._of_model()}, "
            f"{'fine-tuned' if self.finetuned else f'predicted loss increase {self.predicted_loss_increase:.3g}'})"
        )

    def _of_model(self) -> str:
        return f" ({self.model_compression_ratio:.4g}× of the whole model)" if self.unselected_bits else ""

    def _only(self) -> Codebook:
        if len(self.codebooks) != 1:
            raise ValueError(
                f"one codebook is required here, but every layer has its own ({', '.join(map(repr, self.codebooks))}): "
                f"use .codebooks[{next(iter(self.codebooks))!r}]"
            )
        return next(iter(self.codebooks.values()))


def _changed(
    book: Codebook, value: Float[Tensor, " k"], group: str, coding: str
) -> tuple[Codebook, Int64[Tensor, " k"]]:
    """The codebook with other values, and the new index of each old one."""
    if value.shape != book.value.shape:
        raise ValueError(
            f"group {group!r} must have {len(book.value)} values, but has the shape {tuple(value.shape)}: "
            "give one for each of its codebook's, in their order"
        )
    value = value.detach().to(book.value.device, book.value.dtype)
    value = torch.where(book.value == 0, book.value, value)
    bad = len(value) - int(value.isfinite().sum())
    if bad:
        raise ValueError(
            f"values must be finite in {str(value.dtype).removeprefix('torch.')}, but {bad} of the {len(value)} of "
            f"group {group!r} are not"
        )
    value, index = torch.unique(value, return_inverse=True)
    counts = torch.zeros(len(value), dtype=torch.int64, device=value.device).index_add_(0, index, book.counts)
    length = lengths_for(counts.cpu().numpy(), coding)
    return Codebook(value, counts, torch.from_numpy(length).to(counts.device)), index
