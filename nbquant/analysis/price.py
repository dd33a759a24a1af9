"""Cost of an inexact sensitivity: bits lost by quantizers fitted with an estimate of h, judged by the exact h."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from nbquant.analysis.operating_point import OperatingPoint
from nbquant.analysis.statistics import Statistics
from nbquant.analysis.tabulated import curve, quantize_at
from nbquant.progress import Progress, track
from nbquant.quantization.methods import family
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.selection import Selection
from nbquant.quantization.validate import checked_sensitivity, require_positive_somewhere
from nbquant.required import SELECTION, require

RATES = tuple(np.linspace(0.5, 4.0, 15).tolist())  # [bit/weight]
REFERENCE = "exact"
PLAIN = "plain (h = 1)"

Sensitivities = Mapping[str, Float[Tensor, "..."]] | Selection | None


@dataclass(frozen=True, eq=False)
class Price:
    """Cost of estimated sensitivities.

    Attributes:
        points: One row per quantization: ``sensitivity`` (label), ``parameter`` (its value), ``rate`` [bit/weight] at
            the entropy of the indices, side information included; ``distortion`` under the exact h
            [loss/weight]; ``own_distortion`` under the estimate; ``bits_lost`` [bit/weight] against the curve of the
            exact h at the same true distortion, NaN outside the range of that curve.
        summary: One row per estimate: ``sensitivity``, ``rank_correlation`` (Spearman's, of its h with the exact),
            ``bits_lost`` (mean over log D, where both curves exist) and ``most_lost`` [bit/weight], ``from_distortion``
            and ``to_distortion``.
    """

    points: pd.DataFrame
    summary: pd.DataFrame


def price(
    reference: Selection,
    estimates: Mapping[str, Sensitivities],
    *,
    method: str = "ecsq",
    per_layer: bool = False,
    rates: Sequence[float] = RATES,
    progress: Progress = True,
) -> Price:
    """Quantize with each estimate of h, and evaluate with the exact h.

    Assignments and centres come from the estimate, on the weights themselves; bits lost are at equal true distortion,
    with rates interpolated linearly over log D.

    Args:
        reference: The selection with the exact h.
        estimates: Label -> sensitivities of the same tensors by parameter name, or the selection with them, or None
            for h = 1. The reference is added, and h = 1 unless it is given.
        method: Name of a method with a curve.
        per_layer: Whether each layer has its own codebook.
        rates: Rates to aim at [bit/weight].
        progress: See :data:`nbquant.progress.Progress`; counts quantizations.

    Raises:
        ValueError: A reference without sensitivities, an estimate that does not fit it or is zero everywhere, fewer
            than two rates, an unknown method.
        Cancelled: By ``progress``.
    """
    require("reference", reference, Selection, SELECTION)
    require("estimates", estimates, Mapping, "must map labels to sensitivities", 'pass {"label": sensitivity}')
    for label, h in estimates.items():
        if isinstance(h, Tensor):
            require(f"estimate {label!r}", h, Mapping, "must be sensitivities by name", 'pass {"label": sensitivity}')
    if reference.sensitivity is None:
        raise ValueError("the reference must have sensitivities, but has none: pass select(model, sensitivity)")
    if len(rates) < 2:
        raise ValueError(f"at least two rates are required for a curve, but got {len(rates)}")
    given = {REFERENCE: reference} | {label: _selection(reference, h) for label, h in estimates.items()}
    if not any(h is None for h in estimates.values()):
        given[PLAIN] = _selection(reference, None)
    jobs = []
    for label, selection in given.items():
        statistics = Statistics.of(selection)
        chosen = _nearest(curve(family(method, weighted=True, per_layer=per_layer), statistics), rates)
        jobs += [(label, selection, statistics, point) for point in chosen]
    rows = [
        _row(label, reference, quantize_at(selection, point, statistics), point)
        for label, selection, statistics, point in track(jobs, "price", progress)
    ]
    points = pd.DataFrame(rows)
    exact = points[points["sensitivity"] == REFERENCE]
    points["bits_lost"] = points["rate"] - _rate_at(exact, points["distortion"].to_numpy(float))
    return Price(points, _summary(points, exact, reference, given))


def spearman(a: Float[Tensor, " n"], b: Float[Tensor, " n"]) -> float:
    """Compute Spearman's rank correlation; ties share their mean rank, and a constant input gives NaN.

    Source: Spearman 1904.
    """
    x, y = (_ranks(t) for t in (a, b))
    x, y = x - x.mean(), y - y.mean()
    scale = float(torch.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / scale if scale else float("nan")


def _ranks(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    _, index, counts = torch.unique(values.reshape(-1), return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[index]


def _selection(reference: Selection, given: Sensitivities) -> Selection:
    """The reference's weights with other sensitivities."""
    if isinstance(given, Selection):
        given = {t.name: t.sensitivity for t in given if t.sensitivity is not None} or None
    tensors = []
    for t in reference:
        h = None
        if given is not None:
            if t.name not in given:
                raise ValueError(
                    f"an estimate must hold all {len(reference.tensors)} tensors of the reference, but lacks "
                    f"{t.name!r}: estimate it for the same model"
                )
            h = checked_sensitivity(given[t.name], t.weight, t.name)
        tensors.append(replace(t, sensitivity=h, sensitivity_source=None))
    if given is not None:
        require_positive_somewhere([t.sensitivity for t in tensors if t.sensitivity is not None])
    return replace(reference, tensors=tuple(tensors), record=None)


def _nearest(points: Sequence[OperatingPoint], rates: Sequence[float]) -> list[OperatingPoint]:
    """The points of a curve nearest to some rates, each once."""
    rate = np.array([ideal_rate(p) for p in points])
    chosen = sorted({int(np.abs(rate - r).argmin()) for r in rates})
    return [points[i] for i in chosen if points[i].distortion > 0]


def ideal_rate(made: OperatingPoint | Quantized) -> float:
    """Compute the rate with the entropy of the indices in place of their code [bit/weight]."""
    if isinstance(made, Quantized):
        weights, groups = len(made), [c.counts.cpu().numpy() for c in made.codebooks.values()]
    else:
        weights, groups = made.weights, [c.counts for c in made.clusters.values()]
    bits = 0.0
    for counts in groups:
        used = counts[counts > 0].astype(np.float64)
        bits += float((used * np.log2(used.sum() / used)).sum())
    return (made.ledger.total - made.ledger["payload"] + bits) / weights


def _row(label: str, reference: Selection, made: Quantized, point: OperatingPoint) -> dict[str, object]:
    loss = 0.0
    for t in reference:
        own = made.tensors[t.name]
        h = None if t.sensitivity is None else t.sensitivity.reshape(-1)
        loss += float(own.losses(t.weight.reshape(-1), h)[:, 2].sum())
    return {
        "sensitivity": label,
        "parameter": point.parameter,
        "rate": ideal_rate(made),
        "distortion": loss / len(reference),
        "own_distortion": made.distortion,
    }


def _rate_at(exact: pd.DataFrame, distortion: Float[np.ndarray, " p"]) -> Float[np.ndarray, " p"]:
    """Rate of a curve at some distortions, linear over log D; NaN outside its range."""
    log_d, rate = _monotone(exact)
    return np.interp(np.log(distortion), log_d, rate, left=np.nan, right=np.nan)


def _monotone(points: pd.DataFrame) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, " p"]]:
    """Log D, ascending, and the least rate at that distortion or below."""
    d, r = points["distortion"].to_numpy(float), points["rate"].to_numpy(float)
    order = np.argsort(d)
    return np.log(d[order]), np.minimum.accumulate(r[order])


def _summary(
    points: pd.DataFrame, exact: pd.DataFrame, reference: Selection, given: Mapping[str, Selection]
) -> pd.DataFrame:
    rows = []
    for label, selection in given.items():
        log_d, rate = _monotone(points[points["sensitivity"] == label])
        ours, _ = _monotone(exact)
        low, high = max(log_d[0], ours[0]), min(log_d[-1], ours[-1])
        lost, most = float("nan"), float("nan")
        if low < high:
            at = np.linspace(low, high, 201)
            excess = np.interp(at, log_d, rate) - _rate_at(exact, np.exp(np.clip(at, ours[0], ours[-1])))
            lost, most = float(np.nanmean(excess)), float(np.nanmax(excess))
        rows.append(
            {
                "sensitivity": label,
                "rank_correlation": _correlation(selection, reference),
                "bits_lost": lost,
                "most_lost": most,
                "from_distortion": float(np.exp(low)) if low < high else float("nan"),
                "to_distortion": float(np.exp(high)) if low < high else float("nan"),
            }
        )
    return pd.DataFrame(rows)


def _correlation(selection: Selection, reference: Selection) -> float:
    h, exact = selection.sensitivity, reference.sensitivity
    return spearman(h, exact) if h is not None and exact is not None else float("nan")
