"""Least entropy of a scalar quantizer at a distortion: the limit of all scalar methods."""

import numpy as np

from nbquant.analysis.statistics import Statistics
from nbquant.quantization.histogram import Cells, Histogram
from nbquant.quantization.optimal_ecsq import ecsq_hull

_LMBDAS = 9  # values of λ per sweep
_RANGES = (4.0, 1.2)  # factor around the slope, of the first and the second sweep
_MOST_SWEEPS = 6


def scalar_limit(statistics: Statistics, distortion: float, lmbda: float, per_layer: bool = False) -> float:
    """Estimate the entropy of the best entropy-coded scalar quantizer at a distortion, from histograms.

    The zeros of a pruned selection are a symbol of their own, so that the result compares with the bound, which knows
    no positions. Between two quantizers, their mixture (time sharing) counts.

    Args:
        statistics: Statistics of the selection.
        distortion: D [loss/weight], above zero.
        lmbda: Approximate slope of the curve there [loss/bit].
        per_layer: Whether each layer has its own quantizer, all at one slope.

    Returns:
        H [bit/weight]; 0 where a single level suffices.

    Source: Chou, Lookabaugh & Gray 1989, with h as in Choi et al. 2017 (arXiv:1612.01543), section 5.4.
    """
    cells = _cells(statistics, per_layer)
    points: list[tuple[float, float]] = [_at_no_rate(cells, statistics.weights)]
    middle, wide = lmbda, _RANGES[0]
    for _ in range(_MOST_SWEEPS):
        lmbdas = middle * np.geomspace(1 / wide, wide, _LMBDAS)
        found = _sweep(cells, lmbdas, statistics.weights)
        points += found
        distortions = np.array([d for d, _ in found])
        if distortions.min() <= distortion <= distortions.max():
            if wide == _RANGES[1]:
                break
            middle, wide = (
                float(lmbdas[np.abs(np.log(np.maximum(distortions, 1e-300) / distortion)).argmin()]),
                _RANGES[1],
            )
        elif distortion > max(d for d, _ in points):
            return 0.0
        else:
            middle, wide = middle * (wide if distortions.max() < distortion else 1 / wide), _RANGES[0]
    return _on_hull(points, distortion)


def _cells(statistics: Statistics, per_layer: bool) -> list[Cells]:
    layers = list(dict.fromkeys(t.layer for t in statistics.tensors))
    found = []
    for layer in layers if per_layer else [None]:
        histogram = Histogram.merge(t.histogram for t in statistics.tensors if layer in (None, t.layer))
        if len(histogram):
            damped = histogram.damped(statistics.offset) if statistics.offset else histogram
            found.append(Cells.of_histogram(damped, weighted=True, rows=True))
    return found


def _at_no_rate(cells: list[Cells], weights: int) -> tuple[float, float]:
    _, mass, moment, square = np.array([c.true_prefix[-1] for c in cells]).T
    return float(0.5 * np.maximum(square - moment**2 / mass, 0).sum() / weights), 0.0


def _sweep(cells: list[Cells], lmbdas: np.ndarray, weights: int) -> list[tuple[float, float]]:
    """Distortion and entropy at each λ, over all groups."""
    loss, bits = np.zeros(len(lmbdas)), np.zeros(len(lmbdas))
    for one in cells:
        for i, clusters in enumerate(ecsq_hull(one, lmbdas)):
            counts = clusters.counts.astype(np.float64)
            loss[i] += clusters.loss
            bits[i] += float((counts * np.log2(counts.sum() / counts)).sum())
    return list(zip((loss / weights).tolist(), (bits / weights).tolist(), strict=True))


def _on_hull(points: list[tuple[float, float]], distortion: float) -> float:
    """Rate at a distortion on the lower convex hull of (D, R), or at its end."""
    hull: list[tuple[float, float]] = []
    for d, r in sorted(points):
        if hull and r >= hull[-1][1]:
            continue
        while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (d - hull[-1][0]) >= (r - hull[-1][1]) * (
            hull[-1][0] - hull[-2][0]
        ):
            hull.pop()
        hull.append((d, r))
    return float(np.interp(distortion, *np.array(hull).T))
