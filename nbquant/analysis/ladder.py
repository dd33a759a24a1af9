"""Ladder from the rate-distortion bound to the file: every bit between them, step by step, with its reason."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Int64
from torch import nn

from nbquant.analysis.bounds import largest_distortion, rate_distortion_bound, shannon_lower_bound
from nbquant.analysis.operating_point import OperatingPoint
from nbquant.analysis.scalar_limit import scalar_limit
from nbquant.analysis.statistics import Statistics
from nbquant.analysis.waterfilling import joint_loss, waterfilling
from nbquant.coding import codes
from nbquant.coding.ledger import PARTS, Ledger
from nbquant.progress import Progress
from nbquant.quantization import methods
from nbquant.quantization.feedback import parts_of
from nbquant.quantization.integers import ideal_bits
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.selection import Selection
from nbquant.required import QUANTIZED, require
from nbquant.storage.write import file_ledger

_GAP = 0.005  # tolerance of the bound's iteration [bit/weight]
_MET, _LOOSE = 1.1, 0.2
"""Most that the bound's distortion may be above the wanted one, as a factor, and most bits that its certificate may lie
below it: beyond these its tangent means nothing."""
_DENSE = 5.2  # bit/weight of Shannon's bound above which its histogram is too coarse for the certified one
_PART_REASONS = {
    "code_table": ("code table", "the decoder needs the code"),
    "codebook": ("codebook", "the decoder needs the reconstruction values"),
    "position_table": ("position tables", "the decoder needs the codes of the gaps"),
    "unquantized": ("unquantized", "parameters and buffers stored unchanged"),
    "header": ("header", "names, shapes and recipe"),
    "container": ("container", "magic number, version, checksums and digest"),
    "padding": ("padding", "bits that fill the last byte of each stream"),
}
_TWICE = "; a trellis has twice as many, which its code knows"
_TRELLIS = "the trellis state excludes every second integer"


def ladder(
    quantized: Quantized | OperatingPoint,
    selection: Selection | Statistics,
    *,
    model: nn.Module | str | os.PathLike[str] | None = None,
    gap: float = _GAP,
    progress: Progress = True,
) -> pd.DataFrame:
    """Tabulate the steps from the least rate of any code at this distortion to the stored bits.

    The steps, each relative to the one before: the certified lower bound; R(D) as achieved; the entropy of the best
    scalar quantizer at D; the entropy of this one; the overhead of its code; tables, codebook and positions; and with
    ``model`` the rest of the file. A step may lead down: a context code or a trellis spends less than the entropy of
    single weights. The bound assumes independent weights, so it does not bound such codes.

    For error feedback, whose loss is that of each layer's outputs, the first steps are others: the estimate of
    :func:`nbquant.waterfilling` at its joint loss, and the ideal bits of its levels.

    Where the histogram is too coarse for a certified bound, mostly above 5 bit/weight, Shannon's lower bound stands in
    for it, as an estimate.

    Where each layer has its own codebook, the bound and the best scalar quantizer know the layers as well. Entropies
    count the zeros of a pruned selection as one more symbol of each codebook; a code that stores positions pays for
    them there.

    Args:
        quantized: Result of :func:`nbquant.fit`, or a point of a curve.
        selection: The selection it was fitted to, or its statistics.
        model: The model selected from, as for :func:`nbquant.save`, to go on to the size of the file; with a
            :class:`Quantized` only.
        gap: Tolerance of the bound's iteration [bit/weight].
        progress: See :data:`nbquant.progress.Progress`.

    Returns:
        One row per step, from bottom to top: ``step`` (its name), ``part`` (of the ledger, or "bound", "scalar",
        "quantizer"), ``change`` [bit/weight], ``total`` (after it) [bit/weight], ``bits`` (the change in total) and
        ``reason``. Changes add up to the ledger, or to the file, over the number of selected weights.

    Raises:
        ValueError: A distortion that is zero, or unknown because the codebook was fine-tuned; another selection; a
            model with an operating point; or as :func:`nbquant.save`.
        Cancelled: By ``progress``.
    """
    require("quantized", quantized, (Quantized, OperatingPoint), QUANTIZED)
    statistics = selection if isinstance(selection, Statistics) else Statistics.of(selection, progress)
    inputs = _ladder_inputs(quantized, statistics)
    if model is not None:
        if not isinstance(quantized, Quantized):
            raise ValueError("an operating point has no file: pass the result of nbquant.fit, or leave model out")
        ledger = file_ledger(quantized, model)
    else:
        ledger = quantized.ledger
    of_values, of_zeros = _entropy(inputs)
    count = inputs.weights
    if isinstance(quantized, Quantized) and isinstance(selection, Selection) and _is_joint(quantized, selection):
        steps = _joint_steps(quantized, selection, ledger, progress)
    else:
        steps = _scalar_steps(statistics, inputs, of_values + of_zeros, gap, progress)
        steps += _code_steps(inputs, ledger, of_values, of_zeros)
    for part, size in sorted(ledger.items(), key=lambda item: PARTS.index(item[0]) if item[0] in PARTS else len(PARTS)):
        if size and (part in _PART_REASONS or part not in PARTS):
            name, reason = _PART_REASONS.get(part, (part.replace("_", " "), "stored beside"))
            steps.append((name, part, float(size), reason))
    change = np.array([size for _, _, size, _ in steps])
    return pd.DataFrame(
        {
            "step": [name for name, *_ in steps],
            "part": [part for _, part, *_ in steps],
            "change": change / count,
            "total": np.cumsum(change) / count,
            "bits": change,
            "reason": [reason for *_, reason in steps],
        }
    )


Step = tuple[str, str, float, str]
"""Name, part, change in bits, and reason."""


def _scalar_steps(
    statistics: Statistics, inputs: "_LadderInputs", entropy: float, gap: float, progress: Progress
) -> list[Step]:
    """Steps from the bound to the entropy of this quantizer [bit]."""
    lower, bound, scalar = _limits(statistics, inputs, gap, progress)
    count = inputs.weights
    if lower is None:
        first = [("Shannon lower bound", "bound", bound * count, "an estimate, as the certified bound is not as fine")]
    else:
        first = [
            ("certified bound", "bound", lower * count, "no code has a lower rate at this distortion"),
            (
                "reached R(D)",
                "bound",
                (bound - lower) * count,
                "achieved by a test channel; beyond the certified bound",
            ),
        ]
    return [
        *first,
        (
            "best scalar quantizer",
            "scalar",
            (scalar - bound) * count,
            "weights are quantized one by one: 0.2546 bit at high rates if all are equally sensitive, else more",
        ),
        (
            "this quantizer",
            "quantizer",
            entropy - scalar * count,
            f"the cells of this quantizer, relative to the best at its distortion{_TWICE * inputs.trellis}",
        ),
    ]


def _is_joint(quantized: Quantized, selection: Selection) -> bool:
    """Whether errors were chosen for their joint loss."""
    return methods.named(quantized.quantizer.method).needs_calibration and bool(parts_of(selection))


def _joint_steps(quantized: Quantized, selection: Selection, ledger: Ledger, progress: Progress) -> list[Step]:
    """Steps from the water-filling estimate to the size of the streams."""
    least = waterfilling(selection, progress=progress).rate_at(joint_loss(quantized, selection)) * len(selection)
    ideal = ideal_bits(quantized)
    coded = ledger["payload"] + ledger.get("position_payload", 0)
    coding = quantized.quantizer.coding
    return [
        ("water-filling estimate", "bound", least, "Gaussian weights at this joint loss; an estimate, no bound"),
        (
            "levels on trellis paths",
            "quantizer",
            ideal - least,
            "8 states leave about 0.1 bit; the rest: one step for a layer whose inputs and outputs matter unequally",
        ),
        (f"{coding} code", "payload", coded - ideal, f"{codes.named(coding).reason}, beyond the nearest levels"),
    ]


Counts = Mapping[str, Int64[np.ndarray, " k"]]


@dataclass(frozen=True)
class _LadderInputs:
    """Properties of a quantized selection or an operating point that the ladder needs."""

    weights: int
    distortion: float
    counts: Counts
    zeros: Mapping[str, int]
    coding: str
    trellis: bool


def _ladder_inputs(quantized: Quantized | OperatingPoint, statistics: Statistics) -> _LadderInputs:
    if isinstance(quantized, OperatingPoint):
        count, counts = quantized.weights, {g: c.counts for g, c in quantized.clusters.items()}
        zeros = {g: statistics.zeros_of(g) * statistics.pruned for g in counts}
    else:
        count, counts = len(quantized), {g: c.counts.cpu().numpy() for g, c in quantized.codebooks.items()}
        members = dict.fromkeys(counts, 0)
        for name, tensor in quantized.tensors.items():
            members[quantized.group_of(name)] += tensor.shape.numel()
        zeros = {g: members[g] - int(c.sum()) for g, c in counts.items()}
    weights = statistics.weights
    if count != weights:
        raise ValueError(
            f"the selection must be the {count:,} weights that were quantized, but has {weights:,}: "
            "pass the selection that was fitted"
        )
    if not quantized.distortion > 0:
        raise ValueError(
            "the distortion must be known and above zero, but is "
            + (
                "unknown, as the codebook was fine-tuned: pass the selection before fine-tuning"
                if math.isnan(quantized.distortion)
                else "zero: nothing is lost, choose a lower rate"
            )
        )
    return _LadderInputs(count, quantized.distortion, counts, zeros, quantized.quantizer.coding, _on_trellis(quantized))


def _on_trellis(quantized: Quantized | OperatingPoint) -> bool:
    """Whether the code exploits that levels are on paths through the trellis."""
    if isinstance(quantized, OperatingPoint) or not codes.named(quantized.quantizer.coding).adaptive:
        return False
    lattices = [book.lattice for book in quantized.codebooks.values()]
    return any(lattice is not None and lattice.dependent for lattice in lattices)


def _limits(
    statistics: Statistics, inputs: _LadderInputs, gap: float, progress: Progress
) -> tuple[float | None, float, float]:
    """Certified bound, R(D), and least entropy of a scalar quantizer [bit/weight] at a distortion.

    Where its histogram does not resolve the distortion, Shannon's bound stands for R(D), and there is no certificate.
    """
    per_layer = len(inputs.counts) > 1
    if inputs.distortion >= largest_distortion(statistics, per_layer):
        return 0.0, 0.0, 0.0
    shannon = float(shannon_lower_bound(statistics, [inputs.distortion])[0])
    found = None
    if shannon <= _DENSE:
        found = rate_distortion_bound(
            statistics, distortions=[inputs.distortion], per_layer=per_layer, gap=gap, progress=progress
        )
    if found is None or found.distortion[0] > _MET * inputs.distortion or found.rate[0] - found.lower[0] > _LOOSE:
        slope = 2 * math.log(2) * inputs.distortion  # 6 dB per bit
        return None, shannon, scalar_limit(statistics, inputs.distortion, slope, per_layer)
    # The curve is convex: its tangent is valid for the certified bound, and practically exact this close.
    aside = float((found.distortion[0] - inputs.distortion) / found.lmbda[0])
    lower, bound = max(float(found.lower[0]) + aside, 0.0), max(float(found.rate[0]) + aside, 0.0)
    return lower, bound, scalar_limit(statistics, inputs.distortion, float(found.lmbda[0]), per_layer)


def _entropy(inputs: _LadderInputs) -> tuple[float, float]:
    """Order-0 entropy of the values, and entropy of the zero mask [bit]; by codebook."""
    of_values = of_zeros = 0.0
    for group, counts in inputs.counts.items():
        used, zeros = counts[counts > 0].astype(np.float64), inputs.zeros[group]
        inside = float(used.sum())
        of_values += float((used * np.log2(inside / used)).sum()) if inside else 0.0
        for part in (inside, zeros):
            of_zeros += part * math.log2((inside + zeros) / part) if part else 0.0
    return of_values, of_zeros


def _code_steps(inputs: _LadderInputs, ledger: Ledger, of_values: float, of_zeros: float) -> list[Step]:
    """Steps from the entropy to the size of the streams, up or down."""
    code = codes.named(inputs.coding)
    reason = f"{code.reason}; {_TRELLIS}" if inputs.trellis else code.reason
    name = "whole-bit lengths" if code.known_from_counts else f"{inputs.coding} code"
    if "position_payload" not in ledger:
        return [(name, "payload", ledger["payload"] - of_values - of_zeros, reason)]
    return [
        (name, "payload", ledger["payload"] - of_values, reason),
        (
            "positions",
            "position_payload",
            ledger["position_payload"] - of_zeros,
            "gaps coded in whole bits, each tensor on its own, relative to the entropy of the zero mask",
        ),
    ]
