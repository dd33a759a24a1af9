"""Rate-distortion curves of several methods in one table."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from nbquant.analysis.statistics import Statistics
from nbquant.analysis.tabulated import curve
from nbquant.progress import Progress, track
from nbquant.quantization.method import Family
from nbquant.quantization.methods import family, named, option_names, tabulated
from nbquant.quantization.selection import Selection

Pairs = str | Sequence[str | tuple[str, bool]]
"""Methods by name, or with whether they are weighted by sensitivity."""


def tabulated_pairs() -> tuple[tuple[str, bool], ...]:
    """List all methods with a curve from histograms, each plain and weighted."""
    return tuple((method.name, weighted) for method in tabulated() for weighted in (False, True))


def families_of(chosen: Pairs | None, usual: Pairs, options: Mapping[str, Any]) -> list[Family]:
    """List the families of several methods with the same options.

    Args:
        chosen: Methods by name, or pairs of a name and whether it is weighted; None for ``usual``.
        usual: Such pairs.
        options: Options by name; for ``usual`` each goes to the methods that have it.

    Raises:
        TypeError: Methods of another type, or an option that no method has.
        ValueError: An unknown method, or one without a curve from histograms.
    """
    given = [chosen] if isinstance(chosen, str) else list(usual if chosen is None else chosen)
    found = []
    for one in given:
        pair = (one, None) if isinstance(one, str) else one
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)):
            raise TypeError(
                f"methods must be names, or pairs of a name and whether it is weighted, but got {one!r}"[:300]
            )
        known, own = named(pair[0]), dict(options)
        if known.curve is None:
            raise ValueError(
                f"a method with a curve from histograms is required, but got {known.name!r}: use nbquant.fit, or "
                f"{', '.join(m.name for m in tabulated())}"
            )
        if chosen is None:
            own = {name: value for name, value in own.items() if name in known.options or name not in option_names()}
        found.append(family(known.name, **({"weighted": pair[1]} | own)))
    return found


def curves(
    selection: Selection | Statistics,
    methods: Pairs | None = None,
    *,
    progress: Progress = True,
    **options: Any,
) -> pd.DataFrame:
    """Tabulate the operating points of several methods.

    Args:
        selection: Selection, or its statistics.
        methods: Methods with a curve from histograms, each by name or as a pair of its name and whether it is weighted
            by sensitivity; None for all, both plain and weighted.
        progress: True for progress bars, False for none, or a callable (done, total), which may raise to cancel.
        **options: Options such as ``coding`` and ``per_layer``, see :func:`nbquant.fit`; without ``methods``, each goes
            to the methods that have it.

    Returns:
        One row per point: method, weighted, parameter (its name), value, levels, rate [bit/weight], compression_ratio,
        distortion [loss/weight], predicted_loss_increase [loss].
    """
    statistics = selection if isinstance(selection, Statistics) else Statistics.of(selection, progress)
    families = families_of(methods, tabulated_pairs(), options)
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
