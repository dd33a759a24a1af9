"""Comparison of block formats on one selection: what each stores, loses, and wastes against the bound."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from nbquant.analysis.log_curve import bound_curve
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
    selection: Selection, formats: Sequence[str] | None = None, *, progress: Progress = True
) -> pd.DataFrame:
    """Quantize a selection in block formats of other libraries, each rounded as its library does, and searched.

    Args:
        selection: The selection.
        formats: Names of formats, such as "nf4" or "int4/64"; None for all.
        progress: See :data:`nbquant.progress.Progress`; counts quantizations.

    Returns:
        Two rows for each format, without and with ``search`` for the scales of least weighted error: ``rate``
        [bit/weight] as stored, ``entropy`` [bit/weight] with ideal codes of the levels in place of fixed ones,
        ``compression_ratio``, ``distortion`` [loss/weight], ``predicted_loss_increase`` [loss]; ``bound_rate`` the
        rate-distortion function at this distortion, ``bits_wasted`` the rate above it, ``decibels_lost`` the distortion
        over that of the bound at the same rate [dB]; ``relative_error`` Σ(w − ŵ)²/Σw², and how many exact zeros and
        signs were lost. Missing where weights are too large for the format's scales.

    Raises:
        ValueError: An unknown format, weights that are all equal or not finite.
        TypeError: Not a selection.
        Cancelled: By ``progress``.
    """
    require("selection", selection, Selection, SELECTION)
    names = block_formats.names() if formats is None else (formats,) if isinstance(formats, str) else tuple(formats)
    if not names:
        raise ValueError("at least one block format is required, but the list is empty.")
    for name in names:
        block_formats.named(name)
    limit = bound_curve(Statistics.of(selection))
    rows = []
    for name, search in track([(n, s) for n in names for s in (False, True)], "formats", progress):
        form = block_formats.named(name)
        row: dict[str, Any] = {"format": name, "title": form.title, "library": form.library, "search": search}
        rows.append(row)
        try:
            found = quantize_blocks(BlockQuantizer(formats=(name,), search=search), selection)
        except ScaleOverflowError:
            continue
        row |= _measured(found, selection)
        if found.distortion > 0:
            row["bound_rate"] = limit.rate(found.distortion)
            row["bits_wasted"] = found.rate - row["bound_rate"]
            row["decibels_lost"] = 10 * math.log10(found.distortion / limit.distortion(found.rate))
    return pd.DataFrame(rows, columns=list(COLUMNS))


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
