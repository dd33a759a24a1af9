"""Lower bounds on the rate at a weighted distortion: the rate-distortion function R(D) and the Shannon lower bound.

One module, as the certificate evaluates the iteration on the same cells and grids.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int64

from nbquant.analysis.bound_source import BoundSource, Spacing, Symbols
from nbquant.analysis.statistics import Statistics
from nbquant.kernels.cpu import blahut as kernels
from nbquant.progress import Progress, track
from nbquant.quantization.histogram import HW, HWW, H, Histogram
from nbquant.required import require

Side = Literal["encoder", "both"]

ENTROPY_CODED_SCALAR_GAP = 0.5 * math.log2(2 * math.pi * math.e / 12)
"""Rate of entropy-coded scalar quantization above R(D) at high rate: 0.2546 bit/weight (Gish & Pierce 1968)."""

POINTS = 12  # number of slopes if neither λ nor distortions are given
LMBDA_RANGE = (0.5, 1e-3)  # in units of 2 ln 2 times the distortion of a single level
NARROWEST = 0.995  # quantile of h whose kernel the grid of reproduction values resolves
RESOLVED = 0.35  # spacing of reproduction values near zero, in widths of that kernel
GROWTH = 0.012  # growth of the spacing with |w|
FINE = 0.0035  # gap [nat] above which all grids are coarser, by its square root
COARSEST = 1.4  # at 3 times the spacing R(D) is 0.4 bit too high at high rates, at 1.4 times 0.06 bit
MERGED = 0.3  # width of merged cells, in kernel widths
FEWEST = 48  # least number of reproduction values
MOST_EVEN = 1500  # most reproduction values between the least and the largest weight if evenly spaced
FEW = 256  # most distinct weights that are all reproduction values themselves
REFINED = 2  # certificate intervals between neighbouring reproduction values
MOST_ITERATIONS = 3000
CHECK_EVERY = 8  # iterations
CEILINGS = 1  # certificates from which the iteration continues
MOST_CEILINGS = 12  # certificates for which μ itself is lowered
ALLOWED = 0.1  # excess allowed, as a share of the gap
LOWERED = 1.5  # power of the excess by which μ is lowered
NEAR_BY = 1.5  # kernel widths within which an excess counts
LEAST_Z = 1e-150  # least Z and A to divide by: smaller values are too far from all weights to matter
LEAST_A = 1e-12
NOTHING = 1e-6  # spread over the kernel's variance below which weights count as equal and need no bits
BETWEEN_CEILINGS = 16  # iterations between certificates
LEAST_SHARE = 1e-20  # least probability of a reproduction value
PUSH = 1.8  # power of the factor that updates q; the iteration diverges from 2 on
START = 1e-6  # least initial probability of a reproduction value, over their number
SEARCHES = 8  # most searches for one distortion
NEAR = 5e-3  # relative tolerance of a distortion


@dataclass(frozen=True)
class Bound:
    """Points of R(D), each with a certified lower bound and an achieved upper bound.

    Attributes:
        rate: Achieved: mutual information of a test channel on the weights themselves [bit/weight].
        lower: Certified: no code for these weights at this distortion has a lower rate [bit/weight].
        distortion: D [loss/weight].
        predicted_loss: N·D [loss].
        lmbda: λ, minus the slope of the curve [loss/bit].
        gap: Part of ``rate − lower`` left by the iteration: the excess of A above one on its grid [bit/weight].
        binning: Remainder of ``rate − lower``: uncertainty of w within a bin and h within half an octave, and of A
            between grid points [bit/weight].
    """

    rate: Float[np.ndarray, " p"]
    lower: Float[np.ndarray, " p"]
    distortion: Float[np.ndarray, " p"]
    predicted_loss: Float[np.ndarray, " p"]
    lmbda: Float[np.ndarray, " p"]
    gap: Float[np.ndarray, " p"]
    binning: Float[np.ndarray, " p"]


def rate_distortion_bound(
    source: Statistics | Histogram,
    *,
    lmbdas: Sequence[float] | Float[np.ndarray, " p"] | None = None,
    distortions: Sequence[float] | Float[np.ndarray, " p"] | None = None,
    side: Side = "encoder",
    per_layer: bool = False,
    gap: float = 0.005,
    progress: Progress = True,
) -> Bound:
    """Bound the rate-distortion function of the weights under ½h(w − c)², c any real number, from a joint histogram.

    At slope λ, with t = ln 2/λ and q the probabilities of the reproduction values: Z(w, h) = Σ_c q(c) exp(−½th(w −
    c)²), A(c) = E[exp(−½th(w − c)²)/Z], and q ← q·A until A ≤ 1 nearly everywhere. The channel p(c|w, h) = q(c)
    exp(…)/Z then gives D and, as its mutual information, R ≤ E log2(p/q).

    The certificate is the dual: R(D) ≥ E log2 μ(w, h) − D/λ for every μ ≥ 0 with E[μ exp(−½th(w − c)²)] ≤ 1 for *all
    real* c. It is proven for the weights, not for the bins: of a bin only n, Σh, Σhw, Σhw² and the ranges of w and h
    are known:

    * h: the loss is linear in (h, hw, hw²). Moving each weight at random to either end of its half-octave, with its
      mean kept, is a channel before the code that leaves the loss unchanged: R(D) of the moved weights is no larger.
    * w: μ = μ_b exp(½th(w − W)²) with W the mean of the cell: then E log μ follows from the sums, and the exponent is
      linear in h(w − W), whose mean is known; its second order is bounded by Σh(w − W)².
    * Where a bin is wide relative to its kernel, h is scaled down: a lower bound for a smaller loss is a lower bound.
    * Between grid points: by curvature, see :func:`nbquant.kernels.cpu.blahut.ceiling`. Outside the range of the
      weights every exp(…) decreases.

    Members of a bin whose w differ by at most a millionth count as equal. The total cost of these steps is ``binning``:
    0.005 to 0.015 bit for h; little for w while the bins (1/32 octave) are narrow relative to √(λ/h) for most weights,
    but much at high rates, where ``lower`` is loose.

    Args:
        source: Statistics of a selection, or a histogram. Zeros of a pruned selection count: the bound also holds for
            codes that store positions. With damping, h and w are independent within a bin.
        lmbdas: Slopes λ [loss/bit].
        distortions: Target distortions D [loss/weight] instead, met within a percent; without either, 12 slopes.
        side: "encoder": only the encoder knows h. "both": the decoder is told the half-octave of each weight's h for
            free and may use separate reproduction values in each: the conditional R(D).
        per_layer: Treat each layer as a source of its own, all at one slope: the bound on codes that know the layer of
            a weight, such as those with a codebook per layer. Requires statistics.
        gap: Tolerance of the iteration [bit/weight]; 0.05 suits a preview.
        progress: See :data:`nbquant.progress.Progress`.

    Returns:
        Points in the order of the given λ or D.

    Raises:
        ValueError: Both λ and distortions, values that are not positive, or a distortion that needs no bits.
        Cancelled: By ``progress``.

    Source: Blahut 1972; Arimoto 1972; the dual: Gallager 1968, theorem 9.4.1; Csiszár 1974.
    """
    require(
        "source",
        source,
        (Statistics, Histogram),
        "must be statistics of a selection",
        "pass nbquant.analysis.statistics.Statistics.of(nbquant.select(model, sensitivity))",
    )
    _check(lmbdas, distortions, side, gap)
    groups = _groups(source, side, per_layer)
    count = sum(group.count for group in groups)
    worst = _single_level(groups, count)
    if worst <= 0:
        raise ValueError("weights must differ, but all are equal: no bits are needed")
    if distortions is not None:
        for value in distortions:
            if value >= worst:
                raise ValueError(
                    f"distortions must be below {worst:.4g}, which needs no bits at all, but got {value:.4g}"
                )
    elif lmbdas is None:
        lmbdas = np.geomspace(*LMBDA_RANGE, POINTS) * 2 * math.log(2) * worst
    points = []
    for value in track(list(lmbdas if distortions is None else distortions), "bound", progress):  # type: ignore[arg-type]
        if distortions is None:
            points.append(_point(groups, count, math.log(2) / value, gap * math.log(2)))
        else:
            points.append(_point_near(groups, count, value, gap * math.log(2)))
    return _bound(points, count)


def largest_distortion(source: Statistics | Histogram, per_layer: bool = False) -> float:
    """Compute the distortion at rate zero: a single reproduction value, or one per layer [loss/weight]."""
    groups = _groups(source, "encoder", per_layer)
    return _single_level(groups, sum(group.count for group in groups))


def _groups(source: Statistics | Histogram, side: Side, per_layer: bool) -> list[BoundSource]:
    """Sources that may have separate reproduction values at no cost."""
    if not per_layer:
        parts = [BoundSource.of(source)]
    elif isinstance(source, Statistics):
        layers = dict.fromkeys(t.layer for t in source.tensors if len(t.histogram))
        parts = [BoundSource.of(source.part([layer])) for layer in layers]
    else:
        raise ValueError("per_layer requires the statistics of a selection, but got a histogram, which has no layers")
    return [p.of_row(r) for p in parts for r in range(p.row.max() + 1)] if side == "both" else parts


@dataclass(frozen=True)
class _Point:
    """A point in nats per weight (except the distortion); parts of the weights add."""

    slope: float
    rate: float
    lower: float
    gap: float
    distortion: float


def _bound(points: Sequence[_Point], count: float) -> Bound:
    slope = np.array([p.slope for p in points])
    distortion = np.array([p.distortion for p in points])
    rate = np.array([p.rate for p in points]) / math.log(2)
    lower = np.clip(np.array([p.lower for p in points]) / math.log(2), 0.0, rate)
    gap = np.minimum(np.array([p.gap for p in points]) / math.log(2), rate - lower)
    return Bound(rate, lower, distortion, count * distortion, math.log(2) / slope, gap, rate - lower - gap)


def _point(groups: Sequence[BoundSource], count: float, slope: float, gap: float) -> _Point:
    """Sum over groups, each with its own reproduction values."""
    share = [group.count / count for group in groups]
    parts = [_iterate(group, slope, gap) for group in groups]

    def mean(name: str) -> float:
        return sum(p * getattr(part, name) for p, part in zip(share, parts, strict=True))

    return _Point(slope, *map(mean, ("rate", "lower", "gap", "distortion")))


def _iterate(source: BoundSource, slope: float, gap: float) -> _Point:
    """Iterate to the probabilities of the reproduction values, the achieved point and the certified one."""
    n, mass, hw, hww = source.sums.sum(axis=0)
    if slope * (hww - hw**2 / mass) < NOTHING * n:
        return _Point(slope, 0.0, 0.0, 0.0, 0.5 * max(hww - hw**2 / mass, 0.0) / n)
    coarser = min(max(math.sqrt(gap / FINE), 1.0), COARSEST)
    spacing = _spacing(source, slope, coarser)
    cells = Symbols.of(source, slope, spacing, MERGED * coarser)
    low, high = cells.end_position.min(), cells.end_position.max()
    node = spacing.values(float(low), float(high))
    precision = slope * cells.mean_h * cells.scale
    kernel = np.exp(
        -0.5 * precision[:, None].astype(np.float32) * (cells.position[:, None] - node).astype(np.float32) ** 2
    )
    p = cells.share.astype(np.float32)
    q = np.bincount(_nearest(node, cells.position), p, len(node)) + START / len(node)
    q = (q / q.sum()).astype(np.float32)
    # The achieved point comes from the plain iteration.
    for done in range(MOST_ITERATIONS):
        a = (p / (kernel @ q)) @ kernel
        if done % CHECK_EVERY == 0 and float(a.max()) < math.exp(gap):
            break
        q = _step(q, a)
    left = max(math.log(a.max()), 0.0)
    rate, distortion = _reached(cells, slope, node, q.astype(np.float64))
    proved = _certify(cells, slope, node, kernel, p, q, gap)
    return _Point(slope, rate, proved - slope * distortion, left, distortion)


def _certify(
    cells: Symbols,
    slope: float,
    node: Float[np.ndarray, " c"],
    kernel: Float[np.ndarray, "m c"],
    p: Float[np.ndarray, " m"],
    q: Float[np.ndarray, " c"],
    gap: float,
) -> float:
    """E log μ of a μ that satisfies the dual constraint [nat].

    First the iteration continues with the ceiling in place of A. Where weights are rare it converges slowly, as
    probabilities start small there; then μ itself is lowered wherever the ceiling exceeds one near by.
    """
    for _ in range(CEILINGS):
        ceiling = _around(_ceiling(cells, slope, node, 1 / _partition(cells, slope, node, q)))
        if math.log(ceiling.max()) <= gap:
            break
        ratio = (ceiling / np.maximum((p / (kernel @ q)) @ kernel, LEAST_A)).astype(np.float32)
        for _ in range(BETWEEN_CEILINGS):
            q = _step(q, ratio * ((p / (kernel @ q)) @ kernel))
    mu = 1 / _partition(cells, slope, node, q)
    precision = slope * cells.end_h
    width = NEAR_BY / np.sqrt(np.maximum(precision, np.finfo(float).tiny))
    near_by = np.searchsorted(node, cells.end_position - width), np.searchsorted(node, cells.end_position + width)
    proved = -math.inf
    for _ in range(MOST_CEILINGS):
        highest = _ceiling(cells, slope, node, mu)
        most = math.log(highest.max())
        value = float((cells.end_share * np.log(mu)).sum() + 0.5 * slope * cells.gain.sum())
        proved = max(proved, value - most)
        if most <= ALLOWED * gap:
            break
        excess = np.maximum(_largest(_around(highest), *near_by), 1.0)
        mu = mu * excess**-LOWERED
    return proved


def _largest(
    values: Float[np.ndarray, " c"], first: Int64[np.ndarray, "m 2"], last: Int64[np.ndarray, "m 2"]
) -> Float[np.ndarray, "m 2"]:
    """Largest of ``values[first - 1 : last + 1]``, from maxima over runs of powers of two."""
    first, last = np.maximum(first - 1, 0), np.minimum(last + 1, len(values))
    runs = [values]
    while 2 ** len(runs) <= len(values):
        half = 2 ** (len(runs) - 1)
        runs.append(np.concatenate([np.maximum(runs[-1][:-half], runs[-1][half:]), runs[-1][-half:]]))
    level = np.frexp(last - first)[1] - 1
    table = np.stack(runs)
    return np.maximum(table[level, first], table[level, last - (1 << level)])


def _step(q: Float[np.ndarray, " c"], a: Float[np.ndarray, " c"]) -> Float[np.ndarray, " c"]:
    q = np.maximum(q * a**PUSH, LEAST_SHARE)
    return q / q.sum()


def _spacing(source: BoundSource, slope: float, coarser: float) -> Spacing:
    n, mass, hw, _ = source.sums.T
    position, h = hw / mass, mass / n
    order = np.argsort(h)
    narrow = h[order][np.searchsorted(np.cumsum(n[order]), NARROWEST * n.sum())]
    extent = position.max() - position.min()
    distinct = np.unique(position[source.lone]) if len(source) < FEW * 8 else np.zeros(0)
    least = max(min(coarser * RESOLVED / math.sqrt(slope * narrow), extent / FEWEST), extent / MOST_EVEN)
    return Spacing(least, coarser * GROWTH, distinct if len(distinct) <= FEW else np.zeros(0))


def _nearest(node: Float[np.ndarray, " c"], position: Float[np.ndarray, " m"]) -> np.ndarray:
    return np.searchsorted((node[1:] + node[:-1]) / 2, position)


def _partition(
    cells: Symbols, slope: float, node: Float[np.ndarray, " c"], q: Float[np.ndarray, " c"]
) -> Float[np.ndarray, "m 2"]:
    """Z at both ends of h of each cell."""
    precision, position = slope * cells.end_h.ravel(), cells.end_position.ravel()
    z, _ = kernels.partition_moment(precision, position, node, q.astype(np.float64))
    return np.maximum(z, LEAST_Z).reshape(-1, 2)


def _ceiling(
    cells: Symbols, slope: float, node: Float[np.ndarray, " c"], mu: Float[np.ndarray, "m 2"]
) -> Float[np.ndarray, " c-1"]:
    """Upper bound of E[μ exp(…)] between neighbouring reproduction values."""
    fine = np.append((node[:-1, None] + np.diff(node)[:, None] * np.arange(REFINED) / REFINED).ravel(), node[-1])
    return (
        kernels.ceiling(
            fine,
            mu,
            slope * cells.end_h,
            cells.end_share,
            cells.end_position,
            cells.between,
            slope * cells.within,
            slope * cells.drift,
            cells.reach,
        )
        .reshape(-1, REFINED)
        .max(axis=1)
    )


def _around(between: Float[np.ndarray, " c-1"]) -> Float[np.ndarray, " c"]:
    """The larger of both neighbours."""
    return np.maximum(np.append(between, between[-1]), np.append(between[0], between))


def _reached(
    cells: Symbols, slope: float, node: Float[np.ndarray, " c"], q: Float[np.ndarray, " c"]
) -> tuple[float, float]:
    """R [nat] and D of the channel q(c)·exp(−½th(w − c)²)/Z, with the scaled h in the channel and the true h in D."""
    precision = slope * cells.mean_h * cells.scale
    kept = q > 0
    z, square = kernels.partition_moment(precision, cells.position, node[kept], q[kept] / q.sum())
    rate = -(cells.share * (np.log(z) + 0.5 * precision * square / z)).sum()
    distortion = 0.5 * (cells.share * cells.mean_h * (square / z + cells.spread)).sum()
    return max(float(rate), 0.0), float(distortion)


def _single_level(groups: Sequence[BoundSource], count: float) -> float:
    """Distortion at rate zero: one reproduction value per group [loss/weight]."""
    sums = np.array([group.sums.sum(axis=0) for group in groups])
    return float(0.5 * np.maximum(sums[:, HWW] - sums[:, HW] ** 2 / sums[:, H], 0.0).sum() / count)


def _point_near(groups: Sequence[BoundSource], count: float, distortion: float, gap: float) -> _Point:
    """Find the point nearest to a distortion: secant steps in (log t, log D), started from a Gaussian source."""
    tried = [_point(groups, count, 0.5 / distortion, gap)]
    steepness = -1.0
    while abs(tried[-1].distortion / distortion - 1) > NEAR and len(tried) < SEARCHES:
        last = tried[-1]
        if not last.distortion > 0:  # few distinct values, all of them told apart
            break
        if len(tried) > 1:
            run = math.log(last.slope / tried[-2].slope)
            rise = math.log(last.distortion / tried[-2].distortion)
            steepness = min(max(rise / run, -1.5), -0.1) if run else -1.0
        step = math.log(distortion / last.distortion) / steepness
        tried.append(_point(groups, count, last.slope * math.exp(min(max(step, -2.0), 2.0)), gap))
    return min(tried, key=lambda p: abs(p.distortion - distortion))


def shannon_lower_bound(
    source: Statistics | Histogram, distortions: Sequence[float] | Float[np.ndarray, " p"]
) -> Float[np.ndarray, " p"]:
    """Compute the weighted Shannon lower bound h(w|h) + ½E log2 h − ½log2(2πe·2D), or 0 [bit/weight].

    The density is taken as constant on each bin (1/32 octave of w) of each half-octave of h. The bound is near the
    curve at high rate and below it elsewhere; it is an estimate, not a certificate, as any density of given numbers.
    Weights that are exactly zero have no density: the bound holds for the others, in their share, which bear all the
    distortion.

    Args:
        source: Statistics of a selection, or a histogram.
        distortions: D [loss/weight].

    Source: Shannon 1959; for weighted squared error Linder & Zamir 1999.
    """
    part = BoundSource.of(source)
    n, mass = part.sums[:, :2].T
    kept = part.bin[:, 1] > part.bin[:, 0]
    if not kept.any():
        return np.zeros(len(distortions))
    edge, width = part.bin[kept, 0], part.bin[kept, 1] - part.bin[kept, 0]
    first = np.flatnonzero((np.diff(edge, prepend=np.nan) != 0) | (np.diff(part.row[kept], prepend=-1) != 0))
    count = np.add.reduceat(n[kept], first)
    width, row = width[first], part.row[kept][first]
    of_row = np.bincount(row, count)[row]
    h = (np.bincount(part.row[kept], mass[kept]) / np.maximum(np.bincount(part.row[kept], n[kept]), 1))[row]
    share = count.sum() / part.count
    entropy = (count @ (np.log2(width * of_row / count) + 0.5 * np.log2(h))) / count.sum()
    allowed = np.asarray(distortions, float) / share
    return np.maximum(share * (entropy - 0.5 * np.log2(4 * math.pi * math.e * allowed)), 0.0)


def _check(lmbdas: object, distortions: object, side: str, gap: float) -> None:
    if lmbdas is not None and distortions is not None:
        raise ValueError("lmbdas and distortions exclude each other, but got both: leave one out")
    if side not in ("encoder", "both"):
        raise ValueError(f'side must be "encoder" or "both", but got {side!r}')
    for name, values in (("lmbdas", lmbdas), ("distortions", distortions), ("gap", [gap])):
        least = min(values, default=1.0) if values is not None else 1.0  # type: ignore[call-overload]
        if not least > 0:
            raise ValueError(f"{name} must be positive, but the least is {least:.4g}")
