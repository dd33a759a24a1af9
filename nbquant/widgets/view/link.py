"""Link the figures to an :class:`ExplorerState`: send data, take drags, moved centres, regions and clicks."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from nbquant.analysis.live import mean_of_cells
from nbquant.analysis.operating_point import operating_point
from nbquant.quantization import methods
from nbquant.quantization.clusters import Clusters
from nbquant.quantization.rate import lengths_for
from nbquant.views.notebook_figure import png, svg
from nbquant.widgets.front.figure_panel import FigurePanel
from nbquant.widgets.jobs.slot import Job, Report, Slot
from nbquant.widgets.panels import panels
from nbquant.widgets.panels.file_tensors import FILE_TENSORS, tensor_of
from nbquant.widgets.panels.histogram import HISTOGRAM, histogram_edges
from nbquant.widgets.panels.panel import Panel
from nbquant.widgets.panels.panels import descriptions
from nbquant.widgets.panels.rate_distortion import RATE_DISTORTION, clickable, measured_values
from nbquant.widgets.state import ExplorerState
from nbquant.widgets.view.pictures import still_figure, table
from nbquant.widgets.view.readout import facts, newest_ledger, note, predicted_loss

AT_REST = 1.0  # s without a newer result, before a still picture is drawn
SLACK = 1e-6  # of a ratio that is chosen by a click
MOST_ROWS = 500  # of a table behind a figure that are shown; the CSV has all
MIME = {"png": "image/png", "svg": "image/svg+xml", "csv": "text/csv"}


class PanelLink:
    """Keeps a panel and a state in step.

    A drive comes faster than it can be solved: the newest one wins, and all answers carry the number of the drive that
    they answer. What takes longer than a tick (maps, files, still pictures) has a thread of its own.
    """

    def __init__(self, state: ExplorerState, panel: FigurePanel, rested: Callable[[], None]) -> None:
        """Link the two.

        Args:
            state: Inputs and results.
            panel: Shows them.
            rested: Called from a thread, each time that results have come to rest.
        """
        self.state, self.panel, self._rested = state, panel, rested
        self._drives, self._files, self._rest = map(Slot, ("drive", "files", "rest"))
        self._slow = {panel.name: Slot(panel.name) for panel in panels.PANELS if panel.slow}
        self._serial = 0
        self._answering = False
        self._pointed = -1
        redraw: dict[str, list[Callable[[], None]]] = {}
        for panel_ in panels.PANELS:
            for trait in panel_.follows:
                redraw.setdefault(trait, []).append(partial(self._draw, panel_))
        for trait, show in (
            ("table", self._show_table),
            ("point", self._show_point),
            ("by_hand", self._show_now),
            ("exact", self._show_exact),
            ("finetuned", self._show_exact),
            ("ledger", self._show_now),
            ("breakdown", self._show_now),
            ("focus", self._show_focus),
            ("log_count", self._show_brushed),
            ("bars", self._show_brushed),
            ("pins", self._show_ghosts),
            ("compared", self._show_ghosts),
            ("comparison", self._describe),
            ("measured", self._describe),
            ("inspected", self._describe),
            ("tensor_codes", self._describe),
            ("training", self._describe),
            ("measurement", self._show_measured),
            ("found", self._show_facts),
            ("saved", self._show_facts),
            ("brushed", self._show_brushed),
        ):
            redraw.setdefault(trait, []).append(show)
        for trait, shows in redraw.items():
            state.observe(lambda change, shows=shows: [show() for show in shows], trait)
        for name, take in (
            ("drive", self._take_drive),
            ("moved", self._take_moved),
            ("region", self._take_region),
            ("clicked", self._take_click),
        ):
            panel.observe(lambda change, take=take: take(change["new"]), name)
        panel.on_msg(lambda _, content, buffers: self._take_message(content))
        for panel_ in panels.PANELS:
            self._draw(panel_)
        for show in (self._show_table, self._show_point, self._show_exact, self._show_ghosts, self._show_brushed):
            show()

    # From the state.

    def _draw(self, panel: Panel) -> None:
        """Draw a panel; in a thread if it is slow, for which a tick must not wait."""
        if panel.slow:
            self._slow[panel.name].start(_job(lambda report: self._draw_now(panel)))
        else:
            self._draw_now(panel)

    def _draw_now(self, panel: Panel) -> None:
        drawn = panel.figure(self.state, whole=False)
        if drawn is not None:
            self.panel.show(panel.name, drawn)
        elif panel.late:
            self.panel.clear(panel.name)

    def _show_focus(self) -> None:
        if self.state.per_layer:
            self._draw(HISTOGRAM)
            self._show_brushed()
            self._show_now()

    def _show_exact(self) -> None:
        self._show_now()
        if self.state.kept is not None:
            self._come_to_rest()

    def point_at(self, pin: int) -> None:
        """Show the codebook of a pin for as long as the mouse is on it; −1 for none."""
        self._pointed = pin
        self._show_ghosts()

    def _show_ghosts(self) -> None:
        pins, compared = self.state.pins, self.state.compared if self._pointed < 0 else self._pointed
        shown = [pins[compared]] if 0 <= compared < len(pins) else []
        group = self.state.group
        self.panel.ghosts = [
            {"label": pin.label, "centre": np.asarray(pin.codebooks[group], np.float32)}
            for pin in shown
            if group in pin.codebooks
        ]

    def _show_brushed(self) -> None:
        brushed = self.state.brushed
        edges = None if brushed is None else histogram_edges(self.state)
        if brushed is None or edges is None:
            self.panel.brushed, self.panel.region = {}, {}
            return
        counts = np.histogram(brushed.weight.float().numpy(), edges)[0]
        edge, height = edges.astype(np.float32), counts.astype(np.float32)
        self.panel.brushed = {"edge": edge, "height": height, "label": brushed.label}

    def _show_facts(self) -> None:
        self.panel.facts = facts(self.state)

    def _show_measured(self) -> None:
        self._show_facts()
        self._show_now()

    def _describe(self) -> None:
        self.panel.descriptions = descriptions(self.state)

    def _show_table(self) -> None:
        self.panel.table = {} if self.state.table is None else vars(self.state.table)

    def _show_point(self) -> None:
        # With the first point the cells of the histogram are known, and need not wait for the other curves.
        if not self.panel.revision(HISTOGRAM.name):
            self._draw(HISTOGRAM)
        self._show_now()

    def _show_now(self) -> None:
        if self._answering or self.state.point is None or self.state.statistics is None:
            return
        with self.panel.hold_sync():
            self.panel.now = now(self.state, self._serial)
            self._show_facts()
            self._describe()

    def _come_to_rest(self) -> None:
        def work(report: Report) -> None:
            end = time.monotonic() + AT_REST
            while time.monotonic() < end:
                report(0, None)
                time.sleep(0.05)
            self._rested()

        self._rest.start(_job(work))

    # From the panel.

    def _take_drive(self, drive: Mapping[str, Any]) -> None:
        if drive:
            self._answer(drive, lambda: self.state.drive(str(drive["driver"]), drive["value"]))

    def _take_moved(self, moved: Mapping[str, Any]) -> None:
        if "index" in moved:
            self._answer(moved, lambda: self.state.move_centre(int(moved["index"]), float(moved["value"])))
        elif moved:
            self._answer(moved, self.state.release)

    def _answer(self, asked: Mapping[str, Any], change: Callable[[], None]) -> None:
        """Newest wins; one answer goes out, also where the point stays as it was, so that the panel does not wait."""

        def work(report: Report) -> None:
            with self.panel.hold_sync():
                self._serial, self._answering = int(asked["serial"]), True
                try:
                    change()
                finally:
                    self._answering = False
                self._show_now()

        self._drives.start(_job(work))

    def _take_region(self, region: Mapping[str, Any]) -> None:
        if "x0" in region:
            self.state.brush((region["x0"], region["x1"]), (region["y0"], region["y1"]))
        elif region:
            self.state.unbrush()

    def _take_click(self, clicked: Mapping[str, Any]) -> None:
        figure, x, y = str(clicked.get("figure")), clicked.get("x"), clicked.get("y")
        kind = self.panel.kinds.get(figure)
        if kind == "map" and x is not None and y is not None:
            self.state.trace_at(float(x), float(y))
        elif kind == "clusters" and x is not None:
            self.state.trace_value(float(x))
        if figure == FILE_TENSORS.name:
            name = tensor_of(getattr(self.panel, figure), int(clicked["curve"]), int(clicked["point"]))
            self.state.file_tensor = name or self.state.file_tensor
        if figure != RATE_DISTORTION.name:
            return
        curves = clickable(self.state)
        chosen = curves[clicked["curve"]] if clicked["curve"] < len(curves) else None
        # A little less than the point's own ratio, whose last digits the figure may have rounded.
        if isinstance(chosen, tuple):
            method, weighted = chosen
            self.state.choose_point(method, weighted, "ratio", clicked["x"] * (1 - SLACK))
        elif chosen is not None and clicked["point"] < len(chosen):
            point = chosen[clicked["point"]]
            self.state.choose_format(point.name, point.search, point.compression_ratio * (1 - SLACK))

    def _take_message(self, content: Mapping[str, Any]) -> None:
        kind, name, form = (content.get(key) for key in ("kind", "figure", "format"))
        if name not in (*self.panel.names, "ledger") or not (kind == "table" or (kind == "download" and form in MIME)):
            return

        def work(report: Report) -> None:
            frame = table(self.state, name)
            if frame is None:
                self.state.tell("files", f"there is nothing behind {name.replace('_', ' ')} yet")
            elif kind == "table":
                self.panel.show_table(name, frame, MOST_ROWS)
            else:
                self._offer(name, str(form))

        self._files.start(_job(work))

    def _offer(self, name: str, form: str) -> None:
        if form == "csv":
            frame = table(self.state, name)
            assert frame is not None
            content = frame.to_csv(index=False, float_format="%.6g").encode()
        else:
            drawn = still_figure(self.state, name)
            assert drawn is not None
            content = {"png": png, "svg": svg}[form](drawn)
        self.panel.offer(f"nbquant_{name}.{form}", MIME[form], content)


def now(state: ExplorerState, serial: int) -> dict[str, Any]:
    """The present operating point as the panel shows it; of the weights themselves once they were quantized."""
    assert state.point is not None
    assert state.statistics is not None
    point = state.by_hand or state.point
    kept = state.kept if state.by_hand is None else None
    clusters = point.clusters[state.group]
    centre, count, length = clusters.codebook, clusters.counts, lengths_for(clusters.counts, state.coding)
    threshold = clusters.threshold
    codeword = None
    if kept is not None:
        book = kept.codebook_of(state.group)
        centre, count, length = (x.double().cpu().numpy() for x in (book.value, book.counts, book.codeword_length))
        threshold = _thresholds(state, centre, clusters)
        if state.breakdown is not None:
            found = list(state.breakdown.codewords[state.group]["codeword"])
            codeword = found if len(found) == len(centre) else None
    ledger = newest_ledger(state)
    costs: Any = point if kept is None else kept
    return {
        "serial": serial,
        "driver": state.driver,
        "target": float(getattr(state, state.driver)),
        "exact": kept is not None,
        "by_hand": state.by_hand is not None,
        "note": note(state),
        "method": point.quantizer.method,
        "weighted": point.quantizer.weighted,
        "parameter": point.quantizer.parameter.name,
        "value": float(getattr(costs.quantizer, point.quantizer.parameter.name)),
        "ratio": costs.compression_ratio,
        "rate": costs.rate,
        "loss": predicted_loss(state),
        "levels": costs.levels,
        "ledger": {} if ledger is None else dict(ledger),
        "centre": centre.astype(np.float32),
        "count": count.astype(np.float32),
        "length": np.asarray(length, np.float32),
        "threshold": None if threshold is None else threshold.astype(np.float32),
        "mean_h": mean_of_cells(point, state.statistics, state.group),
        "lmbda": float(getattr(point.quantizer, "lmbda", 0.0)),
        "codeword": codeword,
        "measured": measured_values(state),
        "accuracy_loss": state.accuracy_loss,
    }


def _thresholds(state: ExplorerState, centre: np.ndarray, clusters: Clusters) -> np.ndarray | None:
    """Boundaries between the cells of the weights themselves; None where they depend on h."""
    kept = state.exact
    if clusters.threshold is None or kept is None or state.statistics is None:
        return None
    found = clusters
    if kept.quantizer != state.point.quantizer:
        found = operating_point(kept.quantizer, state.statistics).clusters[state.group]
    if found.threshold is not None and len(found.threshold) == len(centre) - 1:
        return found.threshold
    boundaries = methods.of(kept.quantizer).boundaries
    return None if boundaries is None else boundaries(kept.quantizer, centre)


def _job(work: Callable[[Report], None]) -> Job:
    def failed(error: Exception) -> None:
        raise error

    return Job(work, lambda result: None, failed)
