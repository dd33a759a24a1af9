"""The ledger ladder: every bit between the bound and the file, a step each, with its reason."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Int64
from torch import nn

from nbquant.analysis.bounds import largest_distortion, rate_distortion_bound
from nbquant.analysis.operating_point import OperatingPoint
from nbquant.analysis.scalar_limit import scalar_limit
from nbquant.analysis.statistics import Statistics
from nbquant.coding import codes
from nbquant.coding.ledger import PARTS, Ledger
from nbquant.progress import Progress
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.selection import Selection
from nbquant.required import QUANTIZED, require
from nbquant.storage.write import file_ledger

_GAP = 0.005  # that the bound's iteration may leave [bit/weight]
_PART_REASONS = {
    "code_table": ("code table", "what the decoder must be told of the code"),
    "codebook": ("codebook", "the reconstruction values themselves"),
    "position_table": ("position tables", "what the decoder must be told of the codes of the gaps"),
    "unquantized": ("unquantized", "parameters and buffers that are stored as they are"),
    "header": ("header", "names, shapes and recipe"),
    "container": ("container", "magic number, version, checksums and digest"),
    "padding": ("padding", "bits that fill the last byte of each stream"),
}
_TRELLIS = "the state of the trellis leaves every second integer out"


def ladder(
    quantized: Quantized | OperatingPoint,
    selection: Selection | Statistics,
    *,
    model: nn.Module | str | os.PathLike[str] | None = None,
    gap: float = _GAP,
    progress: Progress = True,
) -> pd.DataFrame:
    """Climb from the least rate of any code at this distortion to the bits that are stored.

    The steps are, each on the one before: what is certified that no code goes below; R(D) as it is reached; the
    entropy of the best scalar quantizer at D; the entropy of this one; what its code needs beyond; tables, codebook
    and positions; and with ``model`` all else in the file. A step may lead down: a code that knows neighbours, or a
    trellis, spends less than the entropy of single weights. Of such codes the bound, which takes weights for drawn
    one by one, is no bound.

    Where each layer has a codebook of its own, bound and best scalar quantizer know the layers as well. Entropies count
    the zeros of a pruned selection as one more symbol of each codebook; a code that stores positions pays for it there.

    Args:
        quantized: What :func:`nbquant.fit` returned, or a point of a curve.
        selection: What it was made of, or the statistics of that.
        model: What was selected from, as for :func:`nbquant.save`, to go on to the size of the file; of a
            :class:`Quantized` only.
        gap: What the bound's iteration may leave [bit/weight].
        progress: See :data:`nbquant.progress.Progress`.

    Returns:
        One row a step, from bottom to top: ``step`` (its name), ``part`` (of the ledger, or "bound", "scalar",
        "quantizer"), ``change`` [bit/weight], ``total`` (after it) [bit/weight], ``bits`` (the change in all) and
        ``reason``. Changes add up to the ledger, or to the file, over the number of selected weights.

    Raises:
        ValueError: A distortion that is zero, or not known as the codebook was fine-tuned; another selection; a model
            with an operating point; or what :func:`nbquant.save` refuses.
        Cancelled: By ``progress``.
    """
    require("quantized", quantized, (Quantized, OperatingPoint), QUANTIZED)
    statistics = selection if isinstance(selection, Statistics) else Statistics.of(selection, progress)
    made = _made(quantized, statistics)
    if model is not None:
        if not isinstance(quantized, Quantized):
            raise ValueError("an operating point is in no file: pass what nbquant.fit returned, or leave model out")
        ledger = file_ledger(quantized, model)
    else:
        ledger = quantized.ledger
    lower, bound, scalar = _limits(statistics, made, gap, progress)
    of_values, of_zeros = _entropy(made)
    count = made.weights
    steps = [
        ("certified bound", "bound", lower * count, "no code at this distortion goes below"),
        ("reached R(D)", "bound", (bound - lower) * count, "reached by a test channel; beyond what is certain"),
        (
            "best scalar quantizer",
            "scalar",
            (scalar - bound) * count,
            "weights are quantized one by one, which takes 0.2546 bit at high rates",
        ),
        (
            "this quantizer",
            "quantizer",
            of_values + of_zeros - scalar * count,
            "the cells of this quantizer, beside the best at its distortion",
        ),
    ]
    steps += _code_steps(made, ledger, of_values, of_zeros)
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


Counts = Mapping[str, Int64[np.ndarray, " k"]]


@dataclass(frozen=True)
class _Made:
    """What the ladder reads off a quantized selection or an operating point."""

    weights: int
    distortion: float
    counts: Counts
    zeros: Mapping[str, int]
    coding: str
    trellis: bool


def _made(quantized: Quantized | OperatingPoint, statistics: Statistics) -> _Made:
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
            "pass the selection that was given to fit"
        )
    if not quantized.distortion > 0:
        raise ValueError(
            "a distortion above zero is required, but it is "
            + (
                "unknown, as the codebook was fine-tuned: pass what was fine-tuned"
                if math.isnan(quantized.distortion)
                else "zero: nothing is lost, choose a lower rate"
            )
        )
    return _Made(count, quantized.distortion, counts, zeros, quantized.quantizer.coding, _on_trellis(quantized))


def _on_trellis(quantized: Quantized | OperatingPoint) -> bool:
    """Whether the code knows that levels are on paths through the trellis."""
    if isinstance(quantized, OperatingPoint) or not codes.named(quantized.quantizer.coding).adaptive:
        return False
    lattices = [book.lattice for book in quantized.codebooks.values()]
    return any(lattice is not None and lattice.dependent for lattice in lattices)


def _limits(statistics: Statistics, made: _Made, gap: float, progress: Progress) -> tuple[float, float, float]:
    """What is certified, R(D), and the least entropy of a scalar quantizer [bit/weight] at a distortion."""
    per_layer = len(made.counts) > 1
    if made.distortion >= largest_distortion(statistics, per_layer):
        return 0.0, 0.0, 0.0
    found = rate_distortion_bound(
        statistics, distortions=[made.distortion], per_layer=per_layer, gap=gap, progress=progress
    )
    # The curve is convex: its tangent holds for what is certified, and is as good as exact so near by.
    aside = float((found.distortion[0] - made.distortion) / found.lmbda[0])
    lower, bound = max(float(found.lower[0]) + aside, 0.0), max(float(found.rate[0]) + aside, 0.0)
    return lower, bound, scalar_limit(statistics, made.distortion, float(found.lmbda[0]), per_layer)


def _entropy(made: _Made) -> tuple[float, float]:
    """Bits of the values at their order-0 entropy, and of which weights are zero; by codebook."""
    of_values = of_zeros = 0.0
    for group, counts in made.counts.items():
        used, zeros = counts[counts > 0].astype(np.float64), made.zeros[group]
        inside = float(used.sum())
        of_values += float((used * np.log2(inside / used)).sum()) if inside else 0.0
        for part in (inside, zeros):
            of_zeros += part * math.log2((inside + zeros) / part) if part else 0.0
    return of_values, of_zeros


def _code_steps(made: _Made, ledger: Ledger, of_values: float, of_zeros: float) -> list[tuple[str, str, float, str]]:
    """What the streams have beyond, or below, the entropy."""
    code = codes.named(made.coding)
    reason = f"{code.reason}; {_TRELLIS}" if made.trellis else code.reason
    name = "whole-bit lengths" if code.known_from_counts else f"{made.coding} code"
    if "position_payload" not in ledger:
        return [(name, "payload", ledger["payload"] - of_values - of_zeros, reason)]
    return [
        (name, "payload", ledger["payload"] - of_values, reason),
        (
            "positions",
            "position_payload",
            ledger["position_payload"] - of_zeros,
            "gaps in whole bits, each tensor by itself, beside the entropy of which are zero",
        ),
    ]
