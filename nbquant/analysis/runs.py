"""Curves of methods that have none: points where they ran on the weights themselves."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from nbquant.analysis.operating_point import OperatingPoint
from nbquant.analysis.search import first_lmbda
from nbquant.kernels import dispatch
from nbquant.progress import Progress
from nbquant.quantization.clusters import Clusters
from nbquant.quantization.defaults import options_of
from nbquant.quantization.feedback import Feedback
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.quantizer import Coding
from nbquant.quantization.selection import Selection
from nbquant.quantization.steps import Steps
from nbquant.quantization.trellis import Trellis

if TYPE_CHECKING:
    from nbquant.analysis.solve import Target

RUNNERS: dict[str, type[Any]] = {q.method: q for q in (Trellis, Feedback)}
"""Methods whose rate is known once they have run; λ runs along them, and is shared by no other method's."""

SPAN = (0.7, 1.8)  # of the target: where there are points
SPACING = 1.5  # of ratios, at most
MOST_POINTS = 12
STUCK = 0.02  # logarithm of a ratio: less from one run to the next, and it will not get there
SLOPE = 2.4  # λ goes about like this power of the ratio
FURTHER = 64.0  # factor on λ between two runs, at most
LOSS = 2  # column of cluster_losses


def runner(
    method: str,
    weighted: bool | None = None,
    coding: Coding | None = None,
    per_layer: bool | None = None,
    steps: Steps | None = None,
) -> Callable[[float], Trellis | Feedback]:
    """The quantizer of a method at a λ [loss/bit]; None is the default of an option."""
    kind: Callable[..., Any] = RUNNERS[method]
    return partial(
        kind, **options_of(RUNNERS[method], weighted=weighted, coding=coding, per_layer=per_layer, steps=steps)
    )


def point_of(quantized: Quantized, selection: Selection) -> OperatingPoint:
    """What a run gave, as a point of a curve.

    Args:
        quantized: What it gave.
        selection: Of what.
    """
    losses = dict.fromkeys(quantized.codebooks, 0.0)
    for t in selection:
        own = quantized.tensors[t.name]
        h = None if t.sensitivity is None else t.sensitivity.reshape(-1)
        sums = dispatch.cluster_losses(t.weight.reshape(-1), h, own.codebook, own.assignment)
        losses[quantized.group_of(t.name)] += float(sums[:, LOSS].sum())
    clusters = {
        group: Clusters(book.value.cpu().double().numpy(), book.counts.cpu().numpy(), losses[group], None)
        for group, book in quantized.codebooks.items()
    }
    return OperatingPoint(quantized.quantizer, clusters, quantized.ledger, len(selection), selection.source_bits)


def run_curve(
    make: Callable[[float], Trellis | Feedback],
    selection: Selection,
    known: Sequence[OperatingPoint],
    ratio: float,
    progress: Progress = False,
) -> Iterator[list[OperatingPoint]]:
    """Run at one λ after the other, until the points around a ratio are close; yields all so far, coarse to fine.

    Args:
        make: The quantizer at a λ.
        selection: What to quantize.
        known: Points that there are already.
        ratio: Compression ratio that is asked for.
        progress: Of each run; see :data:`nbquant.progress.Progress`.

    Raises:
        Cancelled: By ``progress``.
    """
    points = sorted(known, key=lambda p: -p.parameter)
    for _ in range(MOST_POINTS):
        lmbda = _next(points, ratio, selection)
        if lmbda is None:
            return
        points.append(point_of(make(lmbda).fit(selection, progress=progress), selection))
        points.sort(key=lambda p: -p.parameter)
        yield list(points)


def _next(points: Sequence[OperatingPoint], ratio: float, selection: Selection) -> float | None:
    """Where to run next: towards the ratio, then to both ends of the span around it, then into the widest gap."""
    if not points:
        return first_lmbda(selection, selection.source_bits / len(selection) / ratio)
    ratios = [p.compression_ratio for p in points]
    for wanted in (ratio, ratio * SPAN[1], ratio * SPAN[0]):
        for end, outside in ((0, max(ratios) < wanted), (-1, min(ratios) > wanted)):
            if outside:
                factor = (1.05 * wanted / ratios[end]) ** SLOPE
                if end:
                    bits = selection.source_bits / len(selection)
                    # Six decibels a bit where rates are high.
                    factor = min(
                        (wanted / ratios[end] / 1.05) ** SLOPE, 4.0 ** -(1.05 * bits / wanted - bits / ratios[end])
                    )
                stuck = len(points) > 1 and abs(math.log(ratios[end] / ratios[1 if end == 0 else -2])) < STUCK
                if not stuck:
                    return points[end].parameter * float(np.clip(factor, 1 / FURTHER, FURTHER))
    gaps = [
        (math.log(a / b), i) for i, (a, b) in enumerate(pairwise(ratios)) if a > ratio * SPAN[0] and b < ratio * SPAN[1]
    ]
    if not gaps or max(gaps)[0] < math.log(SPACING):
        return None
    i = max(gaps)[1]
    return math.sqrt(points[i].parameter * points[i + 1].parameter)


def fit_between(
    selection: Selection, target: "Target", points: Sequence[OperatingPoint], progress: Progress = False
) -> Quantized:
    """The point that meets a target, or one between it and the next finer that just does.

    Args:
        selection: What to quantize.
        target: "ratio" or "rate".
        points: A method's points, coarse to fine; one of them meets the target.
        progress: See :data:`nbquant.progress.Progress`.

    Raises:
        ValueError: No point meets the target.
        Cancelled: By ``progress``.
    """
    reached = [p for p in points if target.met(p)]
    if not reached:
        raise ValueError(f"{target.name} {target.value:g} is met by no point: run on toward it")
    met = min(reached, key=lambda p: p.parameter)
    finer = [p for p in points if p.parameter < met.parameter]
    if finer and not target.is_close(met):
        missed = max(finer, key=lambda p: p.parameter)
        low, high = (math.log(target.quantity(p)) for p in (met, missed))
        aim = math.log(target.stricter(2e-3).value)
        share = min(max((aim - low) / (high - low), 0.0), 1.0) if low != high else 0.0
        for part in (share, 0.6 * share):
            lmbda = met.parameter ** (1 - part) * missed.parameter**part
            found = replace(met.quantizer, lmbda=lmbda).fit(selection, progress=progress)  # type: ignore[type-var]
            if target.met(found):
                return found
    return met.quantizer.fit(selection, progress=progress)
