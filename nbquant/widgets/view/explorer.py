"""The explorer: one widget on one screen, linked to an :class:`ExplorerState`."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from threading import get_ident
from typing import Any

import traitlets
from IPython.display import display
from torch import nn

from nbquant.models.evaluate import Loss
from nbquant.models.select import Sensitivities
from nbquant.views.notebook_figure import png
from nbquant.widgets.front.bundle import script, style
from nbquant.widgets.front.figure_panel import FigurePanel
from nbquant.widgets.jobs.slot import Report
from nbquant.widgets.panels import panels
from nbquant.widgets.settings import TARGETS
from nbquant.widgets.state import ExplorerState
from nbquant.widgets.state.inputs import SETTINGS
from nbquant.widgets.view.actions import ACTIONS, blocked
from nbquant.widgets.view.breaking import breaking
from nbquant.widgets.view.controls import FORMATS, REGION, controls
from nbquant.widgets.view.link import PanelLink
from nbquant.widgets.view.page import page_of
from nbquant.widgets.view.pictures import picture_of
from nbquant.widgets.view.readout import outcome, summary, versus
from nbquant.widgets.view.still_output import HIDING, StillOutput
from nbquant.widgets.view.tables import codebook_table, file_table, layers_table, pins_table
from nbquant.widgets.view.while_busy import answer_while_busy

LINKED = (
    *SETTINGS,
    *TARGETS,
    *(
        "focus",
        "measure_at_rest",
        "density",
        "epochs",
        "path",
        "bars",
        "log_count",
        "axis",
        "pooling",
        "size",
        "compared",
        "all_formats",
        "quantized_file",
        "file_tensor",
    ),
)
"""Inputs of the state that are traits of the widget as well, both ways."""
SHOWN = {name: name for name in ("activity", "progress", "pace", "cancelled", "driver")} | {"error": "problem"}
"""Results of the state that the widget shows, and what they are called there."""
JSON, OCTETS = "application/json", "application/octet-stream"
PAGE = "nbquant.html", "text/html"


class Explorer(FigurePanel):
    """The view of an :class:`ExplorerState`, one widget.

    Its inputs are synced traits of the same names as the state's, so that ``ipywidgets.jslink`` and ``observe`` work
    with them: ``ipywidgets.jslink((slider, "value"), (explorer, "ratio"))``.

    Attributes:
        state: Inputs and results; setting its traits moves the controls.
        tables: Tables by name: "layers", "codebook", "pins", "file".
        controls: Descriptions of the controls; see :class:`~nbquant.widgets.view.controls.Control`.
        actions: Names, labels, places and tooltips of the buttons.
        blocked: Action -> why it can do nothing now.
        stale: Whether the point that is shown is of earlier settings.
        problem: What the last input could not do; "" if all is well.
        outcome: What was pruned and saved.
        summary: The chosen point in a line.
        breaks: What quantization breaks, see :func:`~nbquant.widgets.view.breaking.breaking`; empty before.
        traced: The weight that was traced, with its bits and where they are in the file; empty if none was.
        versus: What is shown now against the pin that is compared: "label", "value" and "note" of each, texts.
        layer_bits: Formats of the layers: "layer", "format", "own" (whether it was set), and "steps", name and bits of
            each.
        code_text: The lines of Python that give this result, once they were asked for.
    """

    size: Any = traitlets.Any("standard").tag(sync=True)  # so that the state refuses what it cannot be, in words
    controls: traitlets.List[Any] = traitlets.List().tag(sync=True)
    actions: traitlets.List[Any] = traitlets.List().tag(sync=True)
    blocked = traitlets.Dict().tag(sync=True)
    titles = traitlets.Dict().tag(sync=True)
    stale = traitlets.Bool().tag(sync=True)
    outcome = traitlets.Unicode().tag(sync=True)
    summary = traitlets.Unicode().tag(sync=True)
    breaks = traitlets.Dict().tag(sync=True)
    traced = traitlets.Dict().tag(sync=True)
    versus: traitlets.List[Any] = traitlets.List().tag(sync=True)
    code_text = traitlets.Unicode().tag(sync=True)
    region_text = traitlets.Unicode().tag(sync=True)
    formats_text = traitlets.Unicode().tag(sync=True)
    layer_bits: traitlets.List[Any] = traitlets.List().tag(sync=True)

    def __init__(self, state: ExplorerState) -> None:
        """Link all parts to ``state``."""
        self.state = state
        self._shower: int | None = None  # thread in which an input of the state is shown
        self.tables = {
            "layers": layers_table(state),
            "codebook": codebook_table(state),
            "pins": pins_table(state),
            "file": file_table(state),
        }
        self._acts: dict[str, Callable[[], None]] = {
            **{action.name: partial(action.run, state) for action in ACTIONS if action.run is not None},
            "code": self._show_code,
            "session": self._offer_session,
            "page": self._offer_page,
            "download": lambda: state.deliver(lambda name, content: self.offer(name, OCTETS, content)),
        }
        own = {name: getattr(state, name) for name in LINKED if name != "size"}  # which the panel has
        own |= {name: getattr(state, source) for source, name in SHOWN.items()}
        made: dict[str, Any] = {name: traitlets.Any(value).tag(sync=True) for name, value in own.items()}
        self.add_traits(**made)
        for name, table in self.tables.items():
            table.join(self, f"{name}_table")
        super().__init__(
            *panels.arguments(),
            titles={panel.name: panel.title for panel in panels.PANELS},
            actions=[{key: getattr(a, key) for key in ("name", "label", "place", "tooltip")} for a in ACTIONS],
            controls=controls(state),
            size=state.size,
        )
        self.add_class("nbquant-explorer")
        self._still = StillOutput(self._png, "The explorer: histogram, heat map, rate-distortion curves and ledger")
        self._follow()
        self._link = link = PanelLink(state, self, self._still.update)
        pins = self.tables["pins"]
        pins.observe(lambda change: link.point_at(int(pins.hovered or -1)), ["hovered"])
        self.on_msg(lambda _, content, buffers: self._take(content, buffers))

    @traitlets.default("_esm")
    def _default_esm(self) -> str:
        return script("cockpit")

    @traitlets.default("_css")
    def _default_css(self) -> str:
        return style("figure_panel", "data_table", "cockpit") + HIDING

    def _ipython_display_(self) -> None:
        answer_while_busy(self)
        bundle: Any = self._repr_mimebundle_()
        data, metadata = bundle
        display(data, metadata=metadata, raw=True)
        self._still.display()

    def _png(self) -> bytes:
        found = picture_of(self.state)
        return b"" if found is None else png(found)

    # Between the traits of the widget and of the state.

    def _follow(self) -> None:
        for name in LINKED:
            self.state.observe(lambda change: self._show_input(change["name"]), name)
            self.observe(lambda change: self._set_input(change["name"]), name)
        for source, name in SHOWN.items():
            self.state.observe(lambda change, name=name: self.set_trait(name, change["new"]), source)
        self.observe(lambda change: self._brush(change["new"]), REGION)
        self.observe(lambda change: self._take_formats(change["new"]), FORMATS)
        for names, show in (
            (["method", "parameters", "damping", "focus", "pins"], self._show_controls),
            (["can_undo", "can_redo", "layer_formats", "quantized_file"], self._show_blocked),
            (["formats"], self._show_formats),
            (["point", "exact", "layer_formats"], self._show_layer_bits),
            ([*SETTINGS, "point", "exact", "driver", "accuracy_loss", "found", "cancelled", "error"], self._show_stale),
            (["saved", "pruned"], self._show_outcome),
            (["exact", "finetuned", "measurement", "point"], self._show_summary),
            (["exact", "finetuned"], self._refresh_code),
            (["brushed"], self._show_region),
            (["traced"], self._show_traced),
            (["breaks"], self._show_breaks),
            (["compared", "comparison", "pins", "point", "exact", "ledger", "by_hand"], self._show_versus),
        ):
            self.state.observe(lambda change, show=show: show(), names)
        for show in (
            *(self._show_blocked, self._show_outcome, self._show_summary),
            *(self._show_formats, self._show_layer_bits),
        ):
            show()

    def _show_input(self, name: str) -> None:
        """Give an input of the state to the widget."""
        outer, self._shower = self._shower, get_ident()
        try:
            self.set_trait(name, getattr(self.state, name))
        finally:
            self._shower = outer

    def _set_input(self, name: str) -> None:
        """Give an input of the widget to the state; one that it refuses goes back."""
        if self._shower == get_ident():
            return
        self.state.tell("inputs", "")
        try:
            setattr(self.state, name, getattr(self, name))
        except traitlets.TraitError:
            self.state.tell("inputs", self.state.refusal(name, getattr(self, name)))
        if getattr(self, name) != getattr(self.state, name):
            self._show_input(name)

    def _show_controls(self) -> None:
        if self.state.focus in self.state.parameters:  # else the state is about to move it
            self.controls = controls(self.state)

    def _show_blocked(self) -> None:
        self.blocked = blocked(self.state)

    def _show_stale(self) -> None:
        self.stale = self.state.is_stale

    def _show_outcome(self) -> None:
        self.outcome = outcome(self.state)

    def _show_summary(self) -> None:
        self.summary = summary(self.state)

    def _show_breaks(self) -> None:
        self.breaks = breaking(self.state.breaks)

    def _show_traced(self) -> None:
        found = self.state.traced
        self.traced = {} if found is None else asdict(found)

    def _show_versus(self) -> None:
        self.versus = versus(self.state)

    def _brush(self, text: str) -> None:
        if text != self._region():
            self.state.brush_text(text)

    def _show_region(self) -> None:
        self.region_text = self._region()

    def _show_formats(self) -> None:
        self.formats_text = self._formats()

    def _take_formats(self, text: str) -> None:
        if text != self._formats():
            self.state.formats = text
        self._show_formats()

    def _formats(self) -> str:
        return ", ".join(self.state.settings.formats)

    def _show_layer_bits(self) -> None:
        self.layer_bits = [
            {
                "layer": each.layer,
                "format": each.format,
                "own": each.is_own,
                "steps": [list(step) for step in each.steps],
            }
            for each in self.state.layer_bits
        ]

    def _region(self) -> str:
        return "" if self.state.brushed is None else self.state.brushed.region.text

    # What the front end asks for, beside files and tables.

    def _take(self, content: Mapping[str, Any], buffers: Any) -> None:
        if content.get("kind") == "act" and content.get("name") in self._acts:
            self._acts[content["name"]]()
        elif content.get("kind") == "trace":
            self.state.trace_text(str(content.get("text")))
        elif content.get("kind") == "layer format":
            name = content.get("format")
            self.state.set_layer_format(str(content.get("layer")), None if name is None else str(name))
        elif content.get("kind") == "restore" and buffers:
            self.state.restore(bytes(buffers[0]))

    def _show_code(self) -> None:
        self.code_text = self.state.code()
        self.copy(self.code_text)

    def _refresh_code(self) -> None:
        if self.code_text:
            self.code_text = self.state.code()

    def _offer_page(self) -> None:
        def work(report: Report) -> bytes:
            return page_of(self, self.state, None, report)

        self.state.run_beside("page", "Computing curves for the page", work, lambda page: self.offer(*PAGE, page))

    def _offer_session(self) -> None:
        self.offer("nbquant-session.json", JSON, json.dumps(self.state.session(), indent=1).encode())


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
