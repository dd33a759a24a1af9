"""Rate-distortion curves from runs on the weights, for methods without a curve from histograms."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from nbquant.analysis.operating_point import OperatingPoint
from nbquant.analysis.search import first_lmbda, lmbda_at, search_lmbda
from nbquant.analysis.target import OutOfReachError, Target
from nbquant.progress import Progress
from nbquant.quantization.clusters import Clusters
from nbquant.quantization.method import Family
from nbquant.quantization.quantize import quantize
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.selection import Selection

SPAN = (0.7, 1.8)  # range of points, relative to the target
SPACING = 1.5  # largest factor between the ratios of neighbouring points
MOST_POINTS = 12
TRIES = 4  # runs between two points
SPARE = 4e-3  # aim this much above the target, relative to it
NEAR = 0.02  # relative tolerance of a target
STUCK = 0.02  # logarithm of a ratio: if a run changes less, the target is out of reach
SLOPE, SLOPES = 2.4, (0.5, 30.0)  # λ grows roughly like this power of the ratio; range of what is observed
MARGIN = 1.12  # factor by which a run aims beyond the target at first, and beyond an end of the span
FURTHER = 64.0  # largest factor on λ between two runs
USUAL_RATE = 2.0  # [bit/weight] where estimates start
LOSS = 2  # column of cluster_losses


@dataclass(frozen=True, eq=False)
class RunningCurve:
    """The rate-distortion curve of a method that runs on the weights for each point.

    Attributes:
        family: The method with its options.
        selection: What to quantize.
        points: Points from earlier runs.
        progress: Progress of each run; see :data:`nbquant.progress.Progress`.
    """

    family: Family
    selection: Selection
    points: Sequence[OperatingPoint] = ()
    progress: Progress = False

    def toward(self, target: Target) -> Iterator[list[OperatingPoint]]:
        """Run at one λ after the other until the points around a target are close; yield all so far, coarse to fine.

        Args:
            target: "ratio" or "rate".

        Raises:
            nbquant.progress.Cancelled: By ``progress``.
        """
        ratio = self._ratio(target)
        points = sorted(self.points, key=lambda p: -p.parameter)
        if self.family.method.corners is not None:
            yield from self._at_corners(points, ratio)
            return
        for _ in range(MOST_POINTS):
            lmbda = _next(points, ratio, self.selection)
            if lmbda is None:
                return
            if not points and self._estimate is not None:
                goal = math.log(self.selection.source_bits / len(self.selection) / ratio)
                lmbda, _ = lmbda_at(self._estimate, goal - math.log(MARGIN), lmbda)
            points.append(point_of(self._run(lmbda, self.progress), self.selection))
            points.sort(key=lambda p: -p.parameter)
            yield list(points)

    def left(self, points: Sequence[OperatingPoint], target: Target) -> int:
        """Estimate how many more runs :meth:`toward` will make.

        Args:
            points: Those that it has yielded so far.
            target: Its target.
        """
        spare = MOST_POINTS - len(points)
        if self.family.method.corners is not None:
            return min(len(self._corners) - len(points), spare)
        low, high = (self._ratio(target) * share for share in SPAN)
        ratios = sorted(p.compression_ratio for p in points)
        if not ratios:
            return 2 + round(math.log(high / low, SPACING))
        ends = (ratios[0] > low) + (ratios[-1] < high)
        known = [low, *(r for r in ratios if low < r < high), high]
        gaps = [math.log(b / a, SPACING) for a, b in pairwise(known)]
        halved = sum(2 ** math.ceil(math.log2(gap)) - 1 for gap in gaps if gap > 1)
        return min(ends + halved, spare)

    def _ratio(self, target: Target) -> float:
        """The compression ratio at a target."""
        return (
            self.selection.source_bits / len(self.selection) / target.value if target.name == "rate" else target.value
        )

    def fit(self, target: Target) -> Quantized:
        """Quantize to a target, from the points around it if they suffice, else by searching.

        Raises:
            OutOfReachError: No λ meets the target (names the nearest).
            ValueError: A target not supported by the method.
        """
        self.selection.require_whole(self.family.method.name)
        if target.name == self.family.method.parameter.name:
            return self._run(target.value, self.progress)
        if self.family.method.corners is not None:
            return self._at_corner(target)
        if self.points:
            return self._between(target)
        return search_lmbda(self._run, self.selection, target, self.progress, self._estimate)

    def _run(self, lmbda: float, progress: Progress) -> Quantized:
        return quantize(self.family(lmbda), self.selection, progress=progress)

    @cached_property
    def _estimate(self) -> Callable[[float], float] | None:
        """Estimate of the rate at any λ, if the method has one."""
        estimate_rate = self.family.method.estimate_rate
        if estimate_rate is None:
            return None
        return estimate_rate(self.family(first_lmbda(self.selection, USUAL_RATE)), self.selection)

    @cached_property
    def _corners(self) -> Sequence[float]:
        assert self.family.method.corners is not None
        return self.family.method.corners(self.family(1.0), self.selection, self.progress)

    def _at_corners(self, points: list[OperatingPoint], ratio: float) -> Iterator[list[OperatingPoint]]:
        """All points, or those around the target if there are many."""
        left = [lmbda for lmbda in self._corners if lmbda not in {p.parameter for p in points}]
        while left and len(points) < MOST_POINTS:
            beside = [p.parameter for p in points if p.compression_ratio >= ratio]
            place = len(left) // 2 if not points else sum(lmbda >= min(beside, default=math.inf) for lmbda in left)
            points.append(point_of(self._run(left.pop(min(place, len(left) - 1)), self.progress), self.selection))
            points.sort(key=lambda p: -p.parameter)
            yield list(points)

    def _at_corner(self, target: Target) -> Quantized:
        """The finest of finitely many results that meets a target, found by bisection."""
        left = list(self._corners)
        best = tried = None
        while left:
            middle = 0 if tried is None else len(left) // 2  # the coarsest first: it meets whatever can be met
            tried = self._run(left[middle], False)
            if target.met(tried):
                best, left = tried, left[middle + 1 :]
            elif best is None:
                break
            else:
                left = left[:middle]
        if best is None:
            assert tried is not None
            more = "less" if target.name == "ratio" else "more"
            pinned = ", also in layer_formats" if dict(self.family.options).get("layer_formats") else ""
            raise OutOfReachError(
                f"{target.name} {target.value:g} is out of reach: the coarsest {self.family.method.title} have "
                f"{target.name} {target.quantity(tried):.4g}; ask for {more}, or allow coarser formats{pinned}"
            )
        return best

    def _between(self, target: Target) -> Quantized:
        """The point that meets a target, or one between it and the next finer that just meets it."""
        reached = [p for p in self.points if target.met(p)]
        if not reached:
            raise ValueError(f"{target.name} {target.value:g} is met by no point yet: run on toward it")
        met = min(reached, key=lambda p: p.parameter)
        finer = [p for p in self.points if p.parameter < met.parameter]
        best: Quantized | None = None
        if finer and not target.is_close(met, NEAR):
            missed = max(finer, key=lambda p: p.parameter)
            # log λ and log of the targeted quantity of the nearest points on both sides of the target
            inside, outside = ((math.log(p.parameter), math.log(target.quantity(p))) for p in (met, missed))
            aim = math.log(target.stricter(SPARE).value)
            for _ in range(TRIES):
                rise = outside[1] - inside[1]
                share = min(max((aim - inside[1]) / rise, 0.05), 0.98) if rise else 0.5
                lmbda = math.exp(inside[0] + share * (outside[0] - inside[0]))
                found = self._run(lmbda, self.progress)
                here = math.log(lmbda), math.log(target.quantity(found))
                if not target.met(found):
                    outside = here
                    continue
                best, inside = found, here
                if target.is_close(found, NEAR):
                    break
        return best or quantize(met.quantizer, self.selection, progress=self.progress)


def point_of(quantized: Quantized, selection: Selection) -> OperatingPoint:
    """Make the point of a curve from a run's result.

    Args:
        quantized: Result of the run.
        selection: Its selection.
    """
    losses = dict.fromkeys(quantized.codebooks, 0.0)
    for t in selection:
        own = quantized.tensors[t.name]
        h = None if t.sensitivity is None else t.sensitivity.reshape(-1)
        sums = own.losses(t.weight.reshape(-1), h)
        losses[quantized.group_of(t.name)] += float(sums[:, LOSS].sum())
    books = {group: quantized.codebook_of(group) for group in quantized.codebooks}
    clusters = {
        group: Clusters(book.value.cpu().double().numpy(), book.counts.cpu().numpy(), losses[group], None)
        for group, book in books.items()
    }
    return OperatingPoint(quantized.quantizer, clusters, quantized.ledger, len(selection), selection.source_bits)


def _next(points: Sequence[OperatingPoint], ratio: float, selection: Selection) -> float | None:
    """The next λ to run: towards the ratio, then to both ends of the span around it, then into the widest gap."""
    bits = selection.source_bits / len(selection)
    if not points:
        return first_lmbda(selection, bits / ratio)
    ratios = [p.compression_ratio for p in points]
    low, high = ratio * SPAN[0], ratio * SPAN[1]
    for wanted in (ratio, high, low):
        if max(ratios) < wanted and (found := _beyond(points, wanted * MARGIN, bits)):
            return found
        if min(ratios) > wanted and (found := _beyond(points[::-1], wanted / MARGIN, bits)):
            return found
    gaps = [(math.log(min(a, high) / max(b, low)), i) for i, (a, b) in enumerate(pairwise(ratios))]
    if not gaps or max(gaps)[0] < math.log(SPACING):
        return None
    i = max(gaps)[1]
    # The middle of that part of the gap which lies in the span.
    middle = (math.log(min(ratios[i], high)) + math.log(max(ratios[i + 1], low))) / 2
    share = (middle - math.log(ratios[i + 1])) / math.log(ratios[i] / ratios[i + 1])
    above, below = (math.log(p.parameter) for p in points[i : i + 2])
    return math.exp(below + float(np.clip(share, 0.15, 0.85)) * (above - below))


def _beyond(points: Sequence[OperatingPoint], wanted: float, bits: float) -> float | None:
    """A λ at which the ratio is about the wanted one, beyond the first point; None if the ratio no longer moves."""
    outer = points[0]
    slope = max(SLOPE, 2 * math.log(2) * bits / outer.compression_ratio)  # 6 dB per bit at high rates
    if len(points) > 1:
        inner = points[1]
        change = math.log(outer.compression_ratio / inner.compression_ratio)
        if abs(change) < STUCK:
            return None
        slope = float(np.clip(math.log(outer.parameter / inner.parameter) / change, *SLOPES))
    factor = (wanted / outer.compression_ratio) ** slope
    return outer.parameter * float(np.clip(factor, 1 / FURTHER, FURTHER))
