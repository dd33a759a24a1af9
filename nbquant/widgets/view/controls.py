"""Controls that choose the quantizer and the sensitivities."""

import contextlib
from collections.abc import Mapping
from typing import Any

import ipywidgets as w
import traitlets

from nbquant.coding import codes
from nbquant.quantization import methods
from nbquant.sensitivity import estimators
from nbquant.widgets.state import ExplorerState

DAMPINGS = (0.0, 1e-3, 1e-2, 0.1, 1.0, 10.0)
SIZES = {"standard": "standard", "half a screen": "compact", "projection": "projection"}
WIDTH = "272px"
STYLE = {"description_width": "84px"}


class Controls(w.HBox):
    """Columns of controls, each linked to the input of the state that it is named by.

    Attributes:
        state: Whose inputs they set; they follow it as well.
        of: Input -> control.
    """

    def __init__(self, state: ExplorerState) -> None:
        """Link controls to ``state``."""
        self.state = state
        dampings = sorted({*DAMPINGS, state.damping})
        self.of: dict[str, w.Widget] = {
            "method": _dropdown("Method", _methods(), state.method),
            "weighted": _dropdown("Weighting", {"Hessian": True, "none": False}, state.weighted),
            "coding": _dropdown("Coding", {code.label: code.name for code in codes.CODES}, state.coding),
            "per_layer": _dropdown("Codebook", {"joint": False, "per layer": True}, state.per_layer),
            "pinned_zero": w.Checkbox(
                value=state.pinned_zero,
                description="pinned zero",
                tooltip="One level of k-means is exactly zero",
                style=STYLE,
                layout=w.Layout(width=WIDTH),
            ),
            "estimator": _dropdown("Sensitivity", {e.label: e.name for e in estimators.ESTIMATORS}, state.estimator),
            "samples": w.BoundedIntText(
                value=state.samples,
                min=0,
                max=1_000_000_000,
                description="Samples",
                tooltip="How many calibration samples the estimator sees; 0 is all of them",
                continuous_update=False,
                style=STYLE,
                layout=w.Layout(width=WIDTH),
            ),
            "damping": _dropdown("Damping ε", {f"{d:g}": d for d in dampings}, state.damping),
            "focus": _dropdown("Focus", {n: n for n in state.parameters}, state.focus),
            "pooling": _dropdown("Maps show", {"greatest of a cell": "max", "mean of a cell": "mean"}, state.pooling),
            "region": w.Text(
                description="Region",
                placeholder="rows, columns: 0:10, 5:20",
                tooltip="Part of the maps whose weights the histogram outlines; the mouse brushes it; empty is none",
                continuous_update=False,
                style=STYLE,
                layout=w.Layout(width=WIDTH),
            ),
            "log_count": w.Checkbox(
                value=state.log_count, description="logarithmic counts", style=STYLE, layout=w.Layout(width=WIDTH)
            ),
            "size": _dropdown("Size", SIZES, state.size),
        }
        columns = (
            ("method", "weighted", "coding", "per_layer", "pinned_zero"),
            ("estimator", "samples", "damping", "size"),
            ("focus", "region", "pooling", "log_count"),
        )
        super().__init__(
            [w.VBox([self.of[name] for name in names]) for names in columns], layout=w.Layout(flex_flow="row wrap")
        )
        if state.lacking:
            for name in ("estimator", "samples"):
                self.of[name].disabled, self.of[name].tooltip = True, f"Not here: {state.lacking}"
        self._link()

    def _link(self) -> None:
        for name, control in self.of.items():
            if name not in ("focus", "region"):
                control.observe(lambda change, name=name: setattr(self.state, name, change["new"]), "value")
                self.state.observe(lambda change, control=control: _move(control, change["new"]), name)
        self.of["focus"].observe(self._on_focus, "value")
        self.state.observe(lambda change: self._show_focus(), ["parameters", "focus"])
        self.of["region"].observe(lambda change: self._on_region(change["new"]), "value")
        self.state.observe(lambda change: self._show_region(), "brushed")
        self.state.observe(lambda change: self._show_options(), "method")
        self._show_options()

    def _show_options(self) -> None:
        for name in ("weighted", "coding", "per_layer", "pinned_zero"):
            self.of[name].disabled = name not in self.state.settings.record.options

    def _on_region(self, text: str) -> None:
        if text != self._region_text():
            self.state.brush_text(text)

    def _show_region(self) -> None:
        self.of["region"].value = self._region_text()

    def _region_text(self) -> str:
        return "" if self.state.brushed is None else self.state.brushed.region.text

    def _on_focus(self, change: Any) -> None:
        if change["new"]:
            self.state.focus = change["new"]

    def _show_focus(self) -> None:
        control, focus = self.of["focus"], self.state.focus
        if focus not in self.state.parameters:
            return  # the state is about to move it
        options = tuple((n, n) for n in self.state.parameters)
        if control.options != options:
            # New options first move the choice to the first of them, which the user did not ask for.
            control.unobserve(self._on_focus, "value")
            control.options = options
            control.value = focus
            control.observe(self._on_focus, "value")
        _move(control, focus)


def _dropdown(label: str, options: Mapping[str, Any], value: Any) -> w.Dropdown:
    return w.Dropdown(
        options=list(options.items()), value=value, description=label, style=STYLE, layout=w.Layout(width=WIDTH)
    )


def _move(control: w.Widget, value: Any) -> None:
    """Let a control follow the state; one that has no such choice gets it if it is of numbers, else it stays."""
    if control.value == value:
        return
    if isinstance(value, float) and value not in dict(control.options).values():
        control.options = sorted([*control.options, (f"{value:g}", value)], key=lambda option: option[1])
    with contextlib.suppress(traitlets.TraitError):
        control.value = value


def _methods() -> dict[str, str]:
    """Labels of all methods; those without a curve have to run."""
    return {m.title + " (runs)" * (m.curve is None): m.name for m in methods.METHODS}
