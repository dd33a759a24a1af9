"""Rate-distortion curves of several methods in one table."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from nbquant.analysis.statistics import Statistics
from nbquant.analysis.tabulated import curve
from nbquant.progress import Progress, track
from nbquant.quantization.methods import family, tabulated
from nbquant.quantization.selection import Selection


def tabulated_pairs() -> tuple[tuple[str, bool], ...]:
    """List all methods with a curve from histograms, each plain and weighted."""
    return tuple((method.name, weighted) for method in tabulated() for weighted in (False, True))


def curves(
    selection: Selection | Statistics,
    methods: Sequence[tuple[str, bool]] | None = None,
    *,
    progress: Progress = True,
    **options: Any,
) -> pd.DataFrame:
    """Tabulate the operating points of several methods.

    Args:
        selection: Selection, or its statistics.
        methods: Pairs of the name of a method with a curve and whether it is weighted by sensitivity; None for all.
        progress: True for progress bars, False for none, or a callable (done, total), which may raise to cancel.
        **options: Options for all methods, such as ``coding`` and ``per_layer``; see :func:`nbquant.fit`.

    Returns:
        One row per point: method, weighted, parameter (its name), value, levels, rate [bit/weight], compression_ratio,
        distortion [loss/weight], predicted_loss_increase [loss].
    """
    statistics = selection if isinstance(selection, Statistics) else Statistics.of(selection, progress)
    families = [family(m, weighted=w, **options) for m, w in (tabulated_pairs() if methods is None else methods)]
    points = [p for one in track(families, "curves", progress) for p in curve(one, statistics)]
    return pd.DataFrame(
        {
            "method": [p.quantizer.method for p in points],
            "weighted": [p.quantizer.weighted for p in points],
            "parameter": [p.quantizer.parameter.name for p in points],
            "value": [p.parameter for p in points],
            "levels": [p.levels for p in points],
            "rate": [p.rate for p in points],
            "compression_ratio": [p.compression_ratio for p in points],
            "distortion": [p.distortion for p in points],
            "predicted_loss_increase": [p.predicted_loss_increase for p in points],
        }
    )
