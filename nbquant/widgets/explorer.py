"""The explorer: controls, linked pictures and a read-out, redrawn in place from an :class:`ExplorerState`."""

import contextlib
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import ipywidgets as w
import numpy as np
import traitlets
from torch import Tensor, nn

from nbquant.analysis.curves import METHODS
from nbquant.analysis.operating_point import OperatingPoint
from nbquant.models.evaluate import Loss
from nbquant.quantization.fitting import WHOLE
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.rate import lengths_for
from nbquant.sensitivity.estimate import METHODS as ESTIMATORS
from nbquant.views.heatmap import draw_heatmap, heatmap_data
from nbquant.views.histogram import draw_histogram, histogram_data
from nbquant.views.rate_distortion import ChosenPoint, Curve, draw_rate_distortion, rate_distortion_data
from nbquant.widgets.figure_panel import FigurePanel
from nbquant.widgets.state import ExplorerState, Measurement

RATIO_STEP = 0.005  # of the exponent: 1.2 % of the ratio
DAMPINGS = (0.0, 1e-3, 1e-2, 0.1, 1.0, 10.0)
LABEL = {"description_width": "88px"}
STYLE = """<style>
.nbquant-explorer { color: var(--jp-ui-font-color1, inherit); font-family: var(--jp-ui-font-family, sans-serif); }
.nbquant-explorer .widget-label { color: var(--jp-ui-font-color1, inherit); }
.nbquant-readout { display: flex; flex-wrap: wrap; gap: 4px 28px; line-height: 1.35; padding: 2px 4px; }
.nbquant-readout > span { display: flex; flex-direction: column; min-width: 84px; }
.nbquant-readout b { font-size: 12px; font-weight: normal; color: var(--jp-ui-font-color2, inherit); }
.nbquant-readout output { font-size: 16px; font-variant-numeric: tabular-nums; }
.nbquant-readout small { font-size: 12px; color: var(--jp-ui-font-color2, inherit); }
.nbquant-error { border-left: 4px solid var(--jp-error-color1, #d32f2f); padding: 4px 10px; line-height: 1.4; }
</style>"""


class Explorer(w.VBox):
    """The view of an :class:`ExplorerState`.

    Attributes:
        state: Inputs and results; setting its traits moves the controls.
        panel: The figures.
    """

    def __init__(self, state: ExplorerState) -> None:
        """Link controls and figures to ``state``."""
        self.state = state
        self.panel = FigurePanel()
        self._layers = w.SelectMultiple(
            options=[(name or "(the model itself)", name) for name in state.available_layers],
            value=state.layers,
            rows=min(max(len(state.available_layers), 3), 5),
            description="Layers",
            style={"description_width": "52px"},
            layout=w.Layout(width="220px"),
        )
        self._method = _dropdown("Method", {"k-means": "kmeans", "uniform": "uniform", "ECSQ": "ecsq"}, state.method)
        self._weighted = _dropdown("Weighting", {"Hessian": True, "none": False}, state.weighted)
        self._coding = _dropdown("Coding", {"Huffman": "huffman", "fixed length": "fixed"}, state.coding)
        self._per_layer = _dropdown("Codebook", {"joint": False, "per layer": True}, state.per_layer)
        self._estimator = _dropdown("Sensitivity", {_estimator_label(n): n for n in ESTIMATORS}, state.estimator)
        dampings = sorted({*DAMPINGS, state.damping})
        self._damping = _dropdown("Damping ε", {f"{d:g}": d for d in dampings}, state.damping)
        self._focus = _dropdown("Focus", {n: n for n in state.parameters}, state.focus)
        self._log_count = w.Checkbox(
            value=False, description="logarithmic counts", indent=True, style=LABEL, layout=w.Layout(width="285px")
        )
        low, high = _exponents(state.ratio_bounds)
        self._ratio = w.FloatLogSlider(
            value=state.ratio,
            min=low,
            max=high,
            step=RATIO_STEP,
            description="Target ratio",
            readout_format=".2f",
            style=LABEL,
            layout=w.Layout(width="100%"),
        )
        self._measure = w.Button(description="Measure accuracy", tooltip="Quantize the weights and run the test set")
        self._cancel = w.Button(description="Cancel", tooltip="Stop what is under way")
        self._bar = w.FloatProgress(min=0, max=1, layout=w.Layout(width="160px"))
        self._activity = w.Label()
        self._readout = w.HTML()
        self._error = w.HTML()
        self._work = w.HBox([self._bar, self._activity, self._cancel], layout=w.Layout(align_items="center"))
        columns = [
            w.VBox([self._method, self._weighted, self._estimator, self._damping]),
            w.VBox([self._coding, self._per_layer, self._focus, self._log_count]),
        ]
        super().__init__(
            [
                w.HTML(STYLE),
                w.HBox([self._layers, *columns], layout=w.Layout(flex_flow="row wrap")),
                self._ratio,
                self._readout,
                w.HBox(
                    [self._measure, self._work],
                    layout=w.Layout(flex_flow="row wrap", align_items="center", min_height="36px"),
                ),
                self._error,
                self.panel,
            ]
        )
        self.add_class("nbquant-explorer")
        self._work.add_class("nbquant-work")
        self._curves: list[Curve] = []
        self._shown_curves: tuple[list[Curve], OperatingPoint | None, float] = (self._curves, None, 0.0)
        self._link()

    def _link(self) -> None:
        controls = {
            "layers": self._layers,
            "method": self._method,
            "weighted": self._weighted,
            "coding": self._coding,
            "per_layer": self._per_layer,
            "estimator": self._estimator,
            "damping": self._damping,
            "ratio": self._ratio,
        }
        for name, control in controls.items():
            control.observe(lambda change, name=name: setattr(self.state, name, change["new"]), "value")
            self.state.observe(lambda change, control=control: _move(control, change["new"]), name)
        self._focus.observe(self._on_focus, "value")
        self._log_count.observe(lambda change: self._draw_histogram(), "value")
        self._measure.on_click(lambda button: self.state.measure())
        self._cancel.on_click(lambda button: self.state.cancel())
        redraw: dict[str, Callable[[], None]] = {
            "parameters": self._show_parameters,
            "focus": self._show_focus,
            "ratio_bounds": self._show_bounds,
            "point": self._draw_point,
            "ratio": self._draw_rate_distortion,
            "curves": self._draw_curves,
            "sensitivity": self._draw_heatmap,
            "measurement": self._show_readout,
            "exact": self._show_readout,
            "activity": self._show_work,
            "progress": self._show_work,
            "error": self._show_error,
        }
        for name, draw in redraw.items():
            self.state.observe(lambda change, draw=draw: draw(), name)
        for draw in dict.fromkeys(redraw.values()):
            draw()

    # Controls.

    def _on_focus(self, change: Any) -> None:
        if change["new"]:
            self.state.focus = change["new"]

    def _show_parameters(self) -> None:
        focus = self.state.focus
        if focus not in self.state.parameters:
            return  # the state is about to move it
        # New options first move the choice to the first of them, which is nobody's wish.
        self._focus.unobserve(self._on_focus, "value")
        self._focus.options = [(n, n) for n in self.state.parameters]
        self._focus.value = focus
        self._focus.observe(self._on_focus, "value")

    def _show_focus(self) -> None:
        if self.state.focus not in dict(self._focus.options):
            self._show_parameters()
        _move(self._focus, self.state.focus)
        self._draw_heatmap()
        if self.state.per_layer:
            self._draw_histogram()

    def _show_bounds(self) -> None:
        low, high = _exponents(self.state.ratio_bounds)
        if high > self._ratio.min:
            self._ratio.max, self._ratio.min = high, low
        else:
            self._ratio.min, self._ratio.max = low, high

    def _show_work(self) -> None:
        busy = bool(self.state.activity)
        self._work.layout.visibility = "visible" if busy else "hidden"
        self._activity.value = self.state.activity
        self._bar.value = max(self.state.progress, 0.0)

    def _show_error(self) -> None:
        text = self.state.error
        self._error.value = f'<div class="nbquant-error" role="alert">{escape(text)}</div>' if text else ""

    # Figures.

    def _draw_point(self) -> None:
        with self.panel.hold_sync():
            self._draw_histogram()
            self._draw_rate_distortion()
        self._show_readout()

    def _draw_histogram(self) -> None:
        state = self.state
        if state.point is None or state.statistics is None or not state.point.clusters:
            return
        group, statistics = state.group, state.statistics
        clusters = state.point.clusters[group]
        cells = statistics.cells(False, False, group != WHOLE)[group]
        data = histogram_data(
            cells.position,
            np.diff(cells.prefix[:, 0]),
            clusters.codebook,
            clusters.counts,
            lengths_for(clusters.counts, state.coding),
            thresholds=clusters.threshold,
            pruned_zeros=statistics.zeros_of(group) if statistics.pruned else 0,
            label=", ".join(state.selection.layers) if group == WHOLE else group,
        )
        self.panel.show("histogram", draw_histogram(data, log_count=self._log_count.value))

    def _draw_heatmap(self) -> None:
        found = self.state.sensitivity
        if found is None or self.state.focus not in found:
            return
        self.panel.show("heatmap", draw_heatmap(heatmap_data(found[self.state.focus], name=self.state.focus)))

    def _draw_curves(self) -> None:
        self._curves = [_curve(key, self.state.curves[key]) for key in METHODS if self.state.curves.get(key)]
        self._draw_rate_distortion()

    def _draw_rate_distortion(self) -> None:
        shown = (self._curves, self.state.point, self.state.ratio)
        if not self._curves or all(new is old for new, old in zip(shown, self._shown_curves, strict=True)):
            return
        self._shown_curves = shown
        chosen = None if self.state.point is None else _chosen(self.state.point)
        data = rate_distortion_data(self._curves, chosen=chosen, target_ratio=self.state.ratio)
        self.panel.show("rate_distortion", draw_rate_distortion(data))

    def _show_readout(self) -> None:
        point = self.state.point
        if point is None:
            return
        state = self.state
        self._readout.value = readout(point, state.exact, state.measurement, state.sensitivity is not None)
        self.panel.descriptions = descriptions(self.state)


def explore(
    model: nn.Module,
    data: Any,
    *,
    sensitivity: Mapping[str, Tensor] | None = None,
    loss: Loss | None = None,
    **inputs: Any,
) -> Explorer:
    """Explore the quantization of a model.

    Args:
        model: Any module.
        data: Something with ``calibration`` and ``test`` batches, as :func:`nbquant.zoo.load` gives; or one iterable of
            (inputs, target) batches for both.
        sensitivity: From :func:`nbquant.sensitivity`; None estimates it in the background.
        loss: loss(output, target), the mean over a batch; None is cross-entropy.
        **inputs: First values of the state's inputs, for instance ``method="kmeans"``, ``ratio=15.0``,
            ``layers=("fc1",)``: see :class:`~nbquant.widgets.state.ExplorerState`.

    Returns:
        The widget; as the last line of a cell it is shown.
    """
    return Explorer(ExplorerState(model, data, sensitivity=sensitivity, loss=loss, **inputs))


def readout(point: OperatingPoint, exact: Quantized | None, measurement: Measurement | None, sensitive: bool) -> str:
    """What the chosen point costs, as HTML; by the histograms until the weights themselves were quantized."""
    about, costs = ("≈ ", point) if exact is None else ("", exact)
    name = {"levels": "levels", "step": "step Δ", "lmbda": "λ"}[point.quantizer.parameter]
    value = getattr(costs.quantizer, costs.quantizer.parameter)
    parameter = "" if name == "levels" else f"<small> {name} = {value:.3g}</small>"
    loss = f"{about}{costs.predicted_loss_increase:.3g}" + ("" if sensitive else " <small>with h = 1</small>")
    accuracy = "–"
    if measurement is not None:
        now, before = measurement.evaluation, measurement.original
        said = lambda e: f"{e.loss:.4f} loss" if e.accuracy is None else f"{100 * e.accuracy:.2f} %"  # noqa: E731
        accuracy = f"{said(now)} <small>of {now.samples:,}; original {said(before)}</small>"
    items = {
        "compression ratio": f"{about}{costs.compression_ratio:.2f}×",
        "rate [bit/weight]": f"{about}{costs.rate:.3f}",
        "levels": f"{costs.levels}{parameter}",
        "predicted loss increase": loss,
        "measured accuracy": accuracy,
    }
    rows = "".join(f"<span><b>{escape(k)}</b><output>{v}</output></span>" for k, v in items.items())
    return f'<div class="nbquant-readout" aria-live="polite">{rows}</div>'


def descriptions(state: ExplorerState) -> dict[str, str]:
    """What each figure shows, in words."""
    point = state.point
    return {
        "histogram": f"Histogram of {point.weights:,} weights with {point.levels} cluster centres.",
        "heatmap": f"Heat map of the Hessian diagonal of {state.focus}.",
        "rate_distortion": f"Rate-distortion curves of {len(state.curves)} methods; chosen: "
        f"{point.compression_ratio:.2f} times smaller, predicted loss increase {point.predicted_loss_increase:.3g}.",
    }


def _dropdown(label: str, options: Mapping[str, Any], value: Any) -> w.Dropdown:
    return w.Dropdown(
        options=list(options.items()), value=value, description=label, style=LABEL, layout=w.Layout(width="285px")
    )


def _estimator_label(name: str) -> str:
    return {
        "gauss_newton": "Gauss-Newton, exact",
        "gauss_newton_sampled": "Gauss-Newton, sampled",
        "empirical_fisher": "empirical Fisher",
        "becker_lecun": "Becker & Le Cun",
        "hutchinson": "Hutchinson",
        "adam": "√v of Adam",
        "exact": "exact (small nets)",
    }.get(name, name)


def _exponents(bounds: tuple[float, float]) -> tuple[float, float]:
    """Exponents of the slider's ends, on its own grid: off it, two views of one slider would correct each other."""
    low, high = np.log10(bounds) / RATIO_STEP
    low, high = np.ceil(low), np.floor(high)
    return float(low * RATIO_STEP), float(max(high, low + 1) * RATIO_STEP)


def _move(control: w.Widget, value: Any) -> None:
    """Let a control follow the state; one that has no such choice stays, and the state's error says why."""
    if control.value != value:
        with contextlib.suppress(traitlets.TraitError):
            control.value = value


def _curve(key: tuple[str, bool], points: list[OperatingPoint]) -> Curve:
    return Curve(
        method=key[0],
        weighted=key[1],
        rate=np.array([p.rate for p in points]),
        compression_ratio=np.array([p.compression_ratio for p in points]),
        predicted_loss=np.array([p.predicted_loss_increase for p in points]),
        parameter=np.array([p.parameter for p in points]),
        parameter_name=points[0].quantizer.parameter,
    )


def _chosen(point: OperatingPoint) -> ChosenPoint:
    q = point.quantizer
    return ChosenPoint(q.method, q.weighted, point.rate, point.compression_ratio, point.predicted_loss_increase)
