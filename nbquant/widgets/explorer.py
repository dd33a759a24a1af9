"""The explorer: controls, linked pictures and a read-out, redrawn in place from an :class:`ExplorerState`."""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import ipywidgets as w
import numpy as np
import traitlets
from torch import nn

from nbquant.analysis.curves import METHODS
from nbquant.analysis.operating_point import OperatingPoint
from nbquant.models.evaluate import Loss
from nbquant.models.select import Sensitivities
from nbquant.quantization.fitting import WHOLE
from nbquant.quantization.rate import lengths_for
from nbquant.sensitivity.estimate import METHODS as ESTIMATORS
from nbquant.views.finetuning import draw_finetuning, finetuning_data
from nbquant.views.heatmap import draw_equal_sensitivities, draw_heatmap, heatmap_data
from nbquant.views.histogram import draw_histogram, histogram_data
from nbquant.views.rate_distortion import ChosenPoint, Curve, draw_rate_distortion, rate_distortion_data
from nbquant.widgets.figure_panel import FigurePanel
from nbquant.widgets.keep import Keep
from nbquant.widgets.readout import STYLE, descriptions, readout
from nbquant.widgets.state import ExplorerState

RATIO_STEP = 0.005  # of the exponent: 1.2 % of the ratio
DAMPINGS = (0.0, 1e-3, 1e-2, 0.1, 1.0, 10.0)
LABEL = {"description_width": "88px"}


class Explorer(w.VBox):
    """The view of an :class:`ExplorerState`.

    Attributes:
        state: Inputs and results; setting its traits moves the controls.
        keep: Controls that measure, fine-tune and save.
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
        self._readout = w.HTML()
        self._error = w.HTML()
        self.keep = Keep(state)
        if state.lacking:
            self._estimator.disabled, self._estimator.tooltip = True, f"Not here: {state.lacking}"
        self._density = w.BoundedFloatText(
            value=state.density,
            min=0.001,
            max=1.0,
            step=0.01,
            description="Density",
            style={"description_width": "52px"},
            layout=w.Layout(width="138px"),
        )
        self._prune = w.Button(
            description="Prune",
            tooltip="Set the smallest weights of the model that was given to zero; with data, train what is left",
            layout=w.Layout(width="76px"),
        )
        if not state.is_prunable:
            for control in (self._density, self._prune):
                control.disabled, control.tooltip = True, f"Not here: {state.lacking}"
        columns = [
            w.VBox([self._layers, w.HBox([self._density, self._prune])], layout=w.Layout(width="228px")),
            w.VBox([self._method, self._weighted, self._estimator, self._damping]),
            w.VBox([self._coding, self._per_layer, self._focus, self._log_count]),
        ]
        super().__init__(
            [
                w.HTML(STYLE),
                w.HBox(columns, layout=w.Layout(flex_flow="row wrap")),
                self._ratio,
                self._readout,
                self.keep,
                self._error,
                self.panel,
            ]
        )
        self.add_class("nbquant-explorer")
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
            "density": self._density,
            "ratio": self._ratio,
        }
        for name, control in controls.items():
            control.observe(lambda change, name=name: setattr(self.state, name, change["new"]), "value")
            self.state.observe(lambda change, control=control: _move(control, change["new"]), name)
        self._prune.on_click(lambda button: self.state.prune())
        self._focus.observe(self._on_focus, "value")
        self._log_count.observe(lambda change: self._draw_histogram(), "value")
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
            "ledger": self._show_readout,
            "finetuned": self._show_readout,
            "saved": self._show_readout,
            "training": self._draw_finetuning,
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
            label=_listed(state.selection.layers) if group == WHOLE else group,
        )
        self.panel.show("histogram", draw_histogram(data, log_count=self._log_count.value))

    def _draw_heatmap(self) -> None:
        found, focus = self.state.sensitivity, self.state.focus
        if found is not None and focus in found:
            self.panel.show("heatmap", draw_heatmap(heatmap_data(found[focus], name=focus)))
        elif found is None and self.state.lacking:
            self.panel.show("heatmap", draw_equal_sensitivities(focus))

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

    def _draw_finetuning(self) -> None:
        training = self.state.training
        if training is None:
            return
        data = finetuning_data(
            training.step_loss,
            training.history,
            training.kept,
            validation="test",
            label=f"{training.quantized.levels} levels at {training.quantized.compression_ratio:.2f}×",
        )
        self.panel.show("finetuning", draw_finetuning(data))
        self._show_readout()

    def _show_readout(self) -> None:
        if self.state.point is None:
            return
        self._readout.value = readout(self.state)
        self.panel.descriptions = descriptions(self.state)


def explore(
    model: nn.Module | str | os.PathLike[str],
    data: Any = None,
    *,
    sensitivity: Sensitivities | None = None,
    loss: Loss | None = None,
    **inputs: Any,
) -> Explorer:
    """Explore the quantization of a model, or of a checkpoint on disk.

    Args:
        model: Any module; or the path of a checkpoint, as for :func:`nbquant.select`, which is mapped and may be larger
            than memory.
        data: Something with ``calibration`` and ``test`` batches, and ``train`` to fine-tune on, as
            :func:`nbquant.zoo.load` gives; or one iterable of (inputs, target) batches for all. None, as for a
            checkpoint: nothing can be estimated, fine-tuned or measured, but all else works.
        sensitivity: From :func:`nbquant.sensitivity`, or the path of a file of them; None estimates it in the
            background, or weighs all weights alike without a module and data.
        loss: loss(output, target), the mean over a batch; None is cross-entropy.
        **inputs: First values of the state's inputs, for instance ``method="kmeans"``, ``ratio=15.0``,
            ``layers=("fc1",)``: see :class:`~nbquant.widgets.state.ExplorerState`.

    Returns:
        The widget; as the last line of a cell it is shown.

    Raises:
        TypeError: What is no module, path or data, or an input of a name or type that there is not.
        ValueError: Layers that cannot be selected, an input out of its range, data that can be read only once or come
            with a checkpoint.
        OSError: Files that are not there or cannot be read.
    """
    return Explorer(ExplorerState(model, data, sensitivity=sensitivity, loss=loss, **inputs))


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


def _listed(layers: Sequence[str]) -> str:
    """Names that fit into a title; else how many there are."""
    names = ", ".join(layers)
    return names if len(names) <= 60 else f"{len(layers)} layers"


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
