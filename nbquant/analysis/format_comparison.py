"""Comparison of block formats on one selection: what each stores, loses, and wastes against the bound."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from nbquant.analysis.bounds import largest_distortion
from nbquant.analysis.log_curve import LogCurve, bound_curve
from nbquant.analysis.price import ideal_rate
from nbquant.analysis.statistics import Statistics
from nbquant.progress import Progress, track
from nbquant.quantization.block_quantizer import BlockQuantizer, ScaleOverflowError, quantize_blocks
from nbquant.quantization.blocks import formats as block_formats
from nbquant.quantization.blocks.damage import damage
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.selection import Selection
from nbquant.required import SELECTION, require

COLUMNS = (
    *("format", "title", "library", "search", "rate", "entropy", "compression_ratio", "distortion"),
    *("predicted_loss_increase", "bound_rate", "bits_wasted", "decibels_lost"),
    *("relative_error", "zeros_lost", "signs_flipped"),
)


def compare_formats(
    selection: Selection, formats: Sequence[str] | None = None, *, by_layer: bool = False, progress: Progress = True
) -> pd.DataFrame:
    """Quantize a selection in block formats of other libraries, each rounded as its library does, and searched.

    Args:
        selection: The selection.
        formats: Names of formats, such as "nf4" or "int4/64"; None for all.
        by_layer: Compare in each layer by itself, named in a first column "layer".
        progress: See :data:`nbquant.progress.Progress`; counts quantizations.

    Returns:
        Two rows for each format, without and with ``search`` for the scales of least weighted error: ``rate``
        [bit/weight] as stored, ``entropy`` [bit/weight] with ideal codes of the levels in place of fixed ones,
        ``compression_ratio``, ``distortion`` [loss/weight], ``predicted_loss_increase`` [loss]; ``bound_rate`` the
        rate-distortion function at this distortion, ``bits_wasted`` the rate above it, ``decibels_lost`` the distortion
        over that of the bound at the same rate [dB]; ``relative_error`` Σ(w − ŵ)²/Σw², and how many exact zeros and
        signs were lost. Missing where weights are too large for the format's scales, or all equal in a layer.

    Raises:
        ValueError: An unknown format, weights that are all equal or not finite.
        TypeError: Not a selection.
        Cancelled: By ``progress``.
    """
    require("selection", selection, Selection, SELECTION)
    names = block_formats.names() if formats is None else (formats,) if isinstance(formats, str) else tuple(formats)
    if not by_layer:
        return pd.DataFrame(list(format_rows(selection, names, progress)), columns=list(COLUMNS))
    rows = []
    parts = selection.by_layer()
    jobs = _jobs(names)
    limits = {layer: _limit(Statistics.of(part)) for layer, part in parts.items()}
    everything = [(layer, job) for layer in parts for job in jobs]
    for layer, (name, search) in track(everything, "formats", progress):
        rows.append({"layer": layer} | _row(parts[layer], name, search, limits[layer]))
    return pd.DataFrame(rows, columns=["layer", *COLUMNS])


def format_rows(
    selection: Selection, names: Sequence[str], progress: Progress = False, limit: LogCurve | None = None
) -> Iterator[dict[str, Any]]:
    """Compare formats one by one; each row as in :func:`compare_formats`.

    Args:
        selection: The selection.
        names: Names of formats.
        progress: Counts quantizations.
        limit: The selection's rate-distortion function, if at hand.

    Raises:
        ValueError: No format, an unknown one, weights that are all equal.
        nbquant.progress.Cancelled: By ``progress``.
    """
    jobs = _jobs(names)
    limit = limit or bound_curve(Statistics.of(selection))
    for name, search in track(jobs, "formats", progress):
        yield _row(selection, name, search, limit)


def _jobs(names: Sequence[str]) -> list[tuple[str, bool]]:
    if not names:
        raise ValueError("at least one block format is required, but the list is empty.")
    for name in names:
        block_formats.named(name)
    return [(name, search) for name in names for search in (False, True)]


def _limit(statistics: Statistics) -> LogCurve | None:
    """The rate-distortion function; None where all weights are equal."""
    return bound_curve(statistics) if largest_distortion(statistics) > 0 else None


def _row(selection: Selection, name: str, search: bool, limit: LogCurve | None) -> dict[str, Any]:
    form = block_formats.named(name)
    row: dict[str, Any] = {"format": name, "title": form.title, "library": form.library, "search": search}
    try:
        found = quantize_blocks(BlockQuantizer(formats=(name,), search=search), selection)
    except ScaleOverflowError:
        return row
    row |= _measured(found, selection)
    if found.distortion > 0 and limit is not None:
        row["bound_rate"] = limit.rate(found.distortion)
        row["bits_wasted"] = found.rate - row["bound_rate"]
        row["decibels_lost"] = limit.decibels_lost(found.distortion, found.rate)
    return row


def _measured(found: Quantized, selection: Selection) -> dict[str, Any]:
    restored = found.dequantize()
    parts = [damage(t.weight.detach().float().cpu().numpy(), restored[t.name].float().numpy()) for t in selection]
    total = sum(parts[1:], parts[0])
    return {
        "rate": found.rate,
        "entropy": ideal_rate(found),
        "compression_ratio": found.compression_ratio,
        "distortion": found.distortion,
        "predicted_loss_increase": found.predicted_loss_increase,
        "relative_error": total.relative_error,
        "zeros_lost": total.zeros_lost,
        "signs_flipped": total.signs_flipped,
    }
