"""Plots of nbquant, interactive (plotly) or static (matplotlib): one function each, from the same numbers.

With ``backend="plotly"`` they return a figure for hovering and zooming in a notebook; with "matplotlib" one for
print, to be saved as vector graphics: ``nq.plot.ladder(…, backend="matplotlib").savefig("ladder.pdf")``.
"""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import nn

from nbquant.analysis.bounds import rate_distortion_bound
from nbquant.analysis.curves import Pairs, families_of
from nbquant.analysis.ladder import ladder as ladder_of
from nbquant.analysis.operating_point import OperatingPoint
from nbquant.analysis.price import Price
from nbquant.analysis.statistics import Statistics
from nbquant.analysis.tabulated import curve
from nbquant.coding.ledger import Ledger
from nbquant.models.layers import layer_label
from nbquant.progress import Progress
from nbquant.quantization import methods
from nbquant.quantization.clustering import WHOLE
from nbquant.quantization.codebook import Codebook
from nbquant.quantization.methods import tabulated
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.selection import Selection
from nbquant.quantization.tensor import SelectedTensor
from nbquant.required import QUANTIZED, SELECTION, require
from nbquant.views import theme
from nbquant.views.bound import PICTURE_GAP, bound_data, bound_traces
from nbquant.views.decomposition import decomposition_data, draw_decomposition
from nbquant.views.divergence import divergence_data, draw_divergence
from nbquant.views.file_tensors import draw_file_tensors, file_tensors_data
from nbquant.views.formats import draw_formats, formats_data
from nbquant.views.heatmap import error_data, heatmap_data
from nbquant.views.heatmap_drawing import draw_heatmap
from nbquant.views.histogram import draw_histogram, histogram_data
from nbquant.views.ladder import draw_ladder, ladder_data
from nbquant.views.ledger import ledger_data, plot_ledger
from nbquant.views.price import draw_price, price_data
from nbquant.views.rate_distortion import Curve, draw_rate_distortion, rate_distortion_data
from nbquant.views.single_points import PinnedPoint
from nbquant.views.spent import draw_spent, spent_data
from nbquant.views.still import still
from nbquant.views.wasted import draw_wasted, wasted_data

Backend = Literal["plotly", "matplotlib"]
FormatsView = Literal["plane", "bits", "heatmap"]


def histogram(
    quantized: Quantized,
    selection: Selection,
    group: str = WHOLE,
    *,
    log_count: bool = False,
    backend: Backend = "plotly",
) -> go.Figure | Figure:
    """Draw the weight histogram, with cluster centres and codeword lengths.

    Args:
        quantized: Result of :func:`nbquant.fit`.
        selection: The selection it was fitted to.
        group: A layer with its own codebook; "all" if there is only one.
        log_count: Whether the count axis is logarithmic.
        backend: "plotly" or "matplotlib".

    Raises:
        ValueError: A group without a codebook, or another backend.
    """
    require("quantized", quantized, Quantized, QUANTIZED)
    if group not in quantized.codebooks:
        known = ", ".join(map(repr, quantized.codebooks))
        raise ValueError(f"group must be one of those with a codebook, {known}, but is {group!r}.")
    book, statistics = quantized.codebook_of(group), Statistics.of(selection)
    cells = statistics.cells(False, False, group != WHOLE)[group]
    data = histogram_data(
        cells.position,
        np.diff(cells.prefix[:, 0]),
        book.value.detach().cpu().double().numpy(),
        book.counts.cpu().numpy(),
        book.codeword_length.cpu().double().numpy(),
        thresholds=_boundaries(quantized, book),
        pruned_zeros=statistics.zeros_of(group) if statistics.pruned else 0,
        label="all layers" if group == WHOLE else layer_label(group),
    )
    return _shown(draw_histogram(data, log_count=log_count), backend)


def heatmap(selection: Selection, name: str, *, backend: Backend = "plotly") -> go.Figure | Figure:
    """Draw a map of the sensitivities h of a parameter.

    Args:
        selection: A selection with sensitivities.
        name: Name of the parameter.
        backend: "plotly" or "matplotlib".

    Raises:
        ValueError: No such parameter, no sensitivities, or another backend.
    """
    tensor = _tensor(selection, name)
    if tensor.sensitivity is None:
        raise ValueError(f"{name!r} must have sensitivities, but has none: pass them to nbquant.select.")
    return _shown(draw_heatmap(heatmap_data(tensor.sensitivity, name=name)), backend)


def error(
    quantized: Quantized, selection: Selection, name: str, *, weighted: bool = False, backend: Backend = "plotly"
) -> go.Figure | Figure:
    """Draw a map of the quantization errors of a parameter.

    Args:
        quantized: Result of :func:`nbquant.fit`.
        selection: The selection it was fitted to.
        name: Name of the parameter.
        weighted: Whether to show the predicted loss ½h(w − c)² of each weight instead.
        backend: "plotly" or "matplotlib".

    Raises:
        ValueError: No such parameter, or another backend.
    """
    require("quantized", quantized, Quantized, QUANTIZED)
    tensor = _tensor(selection, name)
    data = error_data(tensor.weight, quantized.tensors[name], tensor.sensitivity, name=name, weighted=weighted)
    return _shown(draw_heatmap(data), backend)


def rate_distortion(
    selection: Selection,
    methods: Pairs | None = None,
    *,
    fitted: Mapping[str, Quantized] | None = None,
    bound: bool = True,
    backend: Backend = "plotly",
    progress: Progress = True,
    **options: Any,
) -> go.Figure | Figure:
    """Draw the methods' rate-distortion curves, with the bound on any code.

    Args:
        selection: The selection.
        methods: Methods with a curve from histograms, each by name or as a pair of its name and whether it uses the
            Hessian; None for all, using it.
        fitted: Points to mark, by label.
        bound: Whether to draw the rate-distortion bound; for numbers see :func:`nbquant.rate_distortion_bound`.
        backend: "plotly" or "matplotlib".
        progress: See :data:`nbquant.progress.Progress`.
        options: Options for all methods, such as ``coding``; see :func:`nbquant.fit`.

    Raises:
        ValueError: An unknown method, or another backend.
        Cancelled: By ``progress``.
    """
    statistics = Statistics.of(selection, progress)
    if fitted is not None:
        require("fitted", fitted, Mapping, "must map labels to results of nbquant.fit", 'pass {"label": quantized}')
    families = families_of(methods, [(m.name, True) for m in tabulated()], options)
    curves = [Curve.of_points(curve(one, statistics)) for one in families]
    pins = [
        PinnedPoint(
            label, q.quantizer.method, q.quantizer.weighted, q.rate, q.compression_ratio, q.predicted_loss_increase
        )
        for label, q in (fitted or {}).items()
    ]
    lines: list[theme.Trace] = []
    if bound:
        found = rate_distortion_bound(statistics, gap=PICTURE_GAP, progress=progress)
        lines = bound_traces(bound_data(found, statistics))
    return _shown(draw_rate_distortion(rate_distortion_data(curves, pins=pins), lines), backend)


def ladder(
    quantized: Quantized | OperatingPoint,
    selection: Selection | Statistics,
    *,
    model: nn.Module | None = None,
    backend: Backend = "plotly",
    progress: Progress = True,
) -> go.Figure | Figure:
    """Draw every bit between the bound and the file; see :func:`nbquant.ladder`, which has the same arguments."""
    steps = ladder_of(quantized, selection, model=model, progress=progress)
    return _shown(draw_ladder(ladder_data(steps)), backend)


def decomposition(rows: pd.DataFrame, *, backend: Backend = "plotly") -> go.Figure | Figure:
    """Draw predicted terms of the loss against the measured loss; ``rows`` from :func:`nbquant.decompose`."""
    require("rows", rows, pd.DataFrame, "must be a table", "pass the result of nbquant.decompose")
    return _shown(draw_decomposition(decomposition_data(rows)), backend)


def divergence(rows: pd.DataFrame, *, backend: Backend = "plotly") -> go.Figure | Figure:
    """Draw the KL divergence from the original's predictions over size, one curve per method.

    Args:
        rows: Rows of one model with the columns "method", "kl_mean", "kl_99", and "bytes" or else "compression_ratio":
            ``nq.sweep(…, evaluate=lambda m: nq.evaluate(m, batches, reference=original))`` returns them.
        backend: "plotly" or "matplotlib".

    Raises:
        ValueError: No rows, a missing column, several models, an unknown method, or another backend.
    """
    require("rows", rows, pd.DataFrame, "must be a table", "pass the result of nbquant.sweep, with evaluate=…")
    return _shown(draw_divergence(divergence_data(rows)), backend)


def formats(
    rows: pd.DataFrame | Mapping[str, pd.DataFrame], view: FormatsView | None = None, *, backend: Backend = "plotly"
) -> go.Figure | Figure:
    """Draw block formats or quantized files: on the rate-distortion plane, by layer, or where their bits go.

    Args:
        rows: From :func:`nbquant.compare_formats`, or from :func:`nbquant.inspect`; several inspections by label are
            compared.
        view: "plane": distortion over bits, of formats, or of a file's tensors that was inspected with its original.
            "bits": where the bits of a file go, by tensor. "heatmap": bits wasted by layer, and by format (of
            ``nq.compare_formats(…, by_layer=True)``), file, or part of the layer. None draws formats on the plane,
            formats by layer and several files as a heat map, and the bits of one file.
        backend: "plotly" or "matplotlib".

    Raises:
        ValueError: Other rows, another view, or another backend.
    """
    told = "pass the result of nbquant.compare_formats or .inspect"
    require("rows", rows, (pd.DataFrame, Mapping), "must be a table, or tables by label", told)
    if isinstance(rows, Mapping):
        for each in rows.values():
            require("each of the rows", each, pd.DataFrame, "must be a table", told)
    inspected = isinstance(rows, pd.DataFrame) and "code_entropy" in rows
    if view is None:
        view = "bits" if inspected else "heatmap" if isinstance(rows, Mapping) or "layer" in rows else "plane"
    if view not in get_args(FormatsView):
        raise ValueError(f"view must be one of {', '.join(get_args(FormatsView))}, but is {view!r}.")
    if view == "heatmap":
        return _shown(draw_wasted(wasted_data(rows)), backend)
    if isinstance(rows, Mapping):
        raise ValueError(f"several files can be compared as a heat map, but view={view!r} came: pass one of them.")
    if view == "bits":
        return _shown(draw_spent(spent_data(rows)), backend)
    return _shown(
        draw_file_tensors(file_tensors_data(rows)) if inspected else draw_formats(formats_data(rows)), backend
    )


def price(found: Price, *, backend: Backend = "plotly") -> go.Figure | Figure:
    """Draw the bits lost to estimated sensitivities; ``found`` from :func:`nbquant.price`."""
    require("found", found, Price, "must be a result of nbquant.price", "pass that")
    return _shown(draw_price(price_data(found)), backend)


def ledger(ledgers: Mapping[str, Ledger]) -> Figure:
    """Draw the parts of files by matplotlib, one bar per ledger, by label."""
    require("ledgers", ledgers, Mapping, "must be ledgers by label", "pass {label: quantized.ledger}")
    for ledger in ledgers.values():
        require("a ledger", ledger, Ledger, "must be one", "pass {label: quantized.ledger}")
    return plot_ledger(ledger_data(dict(ledgers)))


def _shown(figure: theme.Figure, backend: Backend) -> go.Figure | Figure:
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, but is {backend!r}.")
    return go.Figure(figure) if backend == "plotly" else still(figure)


def _boundaries(quantized: Quantized, book: Codebook) -> Float[np.ndarray, " k-1"] | None:
    """Boundaries between cells; None if cells are not intervals, or not determined by their values."""
    boundaries = methods.of(quantized.quantizer).boundaries
    if boundaries is None or quantized.finetuned:
        return None
    return boundaries(quantized.quantizer, book.value.detach().cpu().double().numpy())


def _tensor(selection: Selection, name: str) -> SelectedTensor:
    require("selection", selection, Selection, SELECTION)
    found = {t.name: t for t in selection}
    if name not in found:
        raise ValueError(f"name must be one of {', '.join(map(repr, found))}, but is {name!r}.")
    return found[name]
