"""Make a page of the explorer that runs without a kernel: curves as tables, figures, and the front end."""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, Literal

import numpy as np

from nbquant.analysis.curves import tabulated_pairs
from nbquant.analysis.live import live_table, mean_of_cells
from nbquant.analysis.operating_point import OperatingPoint
from nbquant.analysis.statistics import Statistics
from nbquant.analysis.tabulated import curve
from nbquant.coding import codes
from nbquant.models.layers import layer_label, layers_label
from nbquant.progress import Progress, track
from nbquant.quantization import methods
from nbquant.quantization.clustering import WHOLE
from nbquant.quantization.method import Family
from nbquant.views import theme
from nbquant.views.bound import bound_traces
from nbquant.views.heatmap import heatmap_data
from nbquant.views.heatmap_drawing import draw_equal_sensitivities, draw_heatmap
from nbquant.views.histogram import draw_histogram, histogram_data
from nbquant.views.labels import SMALL
from nbquant.views.rate_distortion import Curve, draw_rate_distortion, rate_distortion_data
from nbquant.widgets.front.bundle import part, script, style
from nbquant.widgets.front.figure_panel import FigurePanel, binary
from nbquant.widgets.jobs.curves import BOUND, bound_of
from nbquant.widgets.panels import panels
from nbquant.widgets.panels.heatmap import pooling_of
from nbquant.widgets.settings import OPTIONS
from nbquant.widgets.state import ExplorerState
from nbquant.widgets.view.packing import packed, packed_clusters, single, thinned

MOST_BYTES = 6_000_000  # of a page
MOST_POINTS = 96  # of a curve
LEAST_POINTS = 12
MOST_LAYERS = 16  # that are offered one by one, the largest
FIXED = (
    *("measure_at_rest", "estimator", "samples", "damping", "pooling"),
    *("axis", "density", "epochs", "path", "region_text", "formats_text", "search", "all_formats", "quantized_file"),
)
"""Inputs that need the weights or the data."""
PAGE_PARTS = ("page_data", "page_pins", "page")
"""Scripts of a page, beside those of the widget."""
NEEDS_KERNEL = "this page has no kernel; open a notebook and call nq.explore(model, data)"
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>%(title)s</title>
<style>
:root { color-scheme: light dark; }
body { background: canvas; color: canvastext; font-family: system-ui, sans-serif; margin: 6px 8px; }
h1 { font-size: 14px; margin: 0 0 4px; }
%(style)s
</style>
<body>
<header><h1>%(title)s</h1></header>
<main class="nbquant-explorer" id="explorer"><noscript>The explorer needs JavaScript.</noscript></main>
<script type="text/plain" id="nbquant-data">%(data)s</script>
<script type="module">
%(script)s
startPage(document.getElementById("explorer"), document.getElementById("nbquant-data").textContent);
</script>
</body>
</html>
"""


def page_of(widget: FigurePanel, state: ExplorerState, title: str | None, progress: Progress) -> bytes:
    """Make the page.

    Args:
        widget: The explorer.
        state: Its state.
        title: Title of the page; None names the layers.
        progress: See :data:`nbquant.progress.Progress`; counts curves.

    Raises:
        ValueError: There are no curves yet, or the page would be larger than 6 MB however few the points.
        nbquant.progress.Cancelled: By ``progress``.
    """
    content = _Content(widget, state, progress)
    for most in (MOST_POINTS, 64, 48, 32, 24, 16, LEAST_POINTS):
        page = _page(content, most, title)
        if len(page) <= MOST_BYTES:
            return page
    raise ValueError(
        f"a page of at most {MOST_BYTES:,} bytes is required, but {len(page):,} came with {LEAST_POINTS} points a "
        "curve: select fewer layers"
    )


def _page(content: "_Content", most: int, title: str | None) -> bytes:
    values = {
        "title": html.escape(title or f"nbquant: {layers_label(content.state.selection.layers)}"),
        "style": style("figure_panel", "data_table", "cockpit"),
        "data": packed(content.at_most(most)),
        "script": "\n".join([script("cockpit"), *map(part, PAGE_PARTS)]),
    }
    return (PAGE % values).encode()


@dataclass(frozen=True)
class _Shown:
    """Layers of curves, and the options of those methods that have them."""

    layers: tuple[str, ...]
    coding: str
    per_layer: bool
    pinned_zero: bool

    def key(self, family: Family | None = None) -> str:
        """Make the key under which the page looks this up; with a family, that of its curve."""
        shared = [
            _key(self.layers),
            self.coding,
            str(self.per_layer).lower(),
            str(self.pinned_zero).lower(),
        ]
        own = [] if family is None else [family.method.name, str(bool(dict(family.options).get("weighted"))).lower()]
        return "|".join(shared + own)


def _key(layers: Sequence[str]) -> str:
    """Make the key of some layers: the same text as JavaScript's JSON.stringify."""
    return json.dumps(list(layers), ensure_ascii=False, separators=(",", ":"))


class _Content:
    """Everything in a page: curves by their layers and options, and figures."""

    def __init__(self, widget: FigurePanel, state: ExplorerState, progress: Progress) -> None:
        self.widget, self.state = widget, state
        statistics = self.state.statistics
        if statistics is None or self.state.point is None:
            raise ValueError("an explorer with curves is required, but it has none yet: wait for its first picture")
        layers = self.state.selection.layers
        sizes = {layer: sum(len(t.histogram) for t in statistics.part([layer]).tensors) for layer in layers}
        alone = sorted(layers, key=lambda layer: -sizes[layer])[:MOST_LAYERS] if len(layers) > 1 else []
        self.parts: dict[tuple[str, ...], Statistics] = {tuple(layers): statistics}
        self.parts |= {(layer,): statistics.part([layer]) for layer in layers if layer in alone}
        self.shown = [
            _Shown(part, coding, per_layer, pinned)
            for part, coding, per_layer, pinned in product(self.parts, codes.names(), (False, True), (False, True))
            if len(part) > 1 or not per_layer
        ]
        self.curves: dict[tuple[_Shown, str, bool], list[OperatingPoint]] = {}
        pairs = [(shown, *pair) for shown in self.shown for pair in tabulated_pairs()]
        for shown, method, weighted in track(pairs, "curves", progress):
            self.curves[shown, method, weighted] = curve(
                self._family(shown, method, weighted), self.parts[shown.layers]
            )
        self.bounds = {
            layers: known.curves.get(BOUND) or bound_of(known, False) for layers, known in self.parts.items()
        }

    def at_most(self, points: int) -> dict[str, Any]:
        """Everything in the page, with at most so many points a curve."""
        tables: dict[str, Any] = {}
        same: dict[int, str] = {}  # curves that several options share are stored once
        for (shown, method, weighted), found in self.curves.items():
            key = shown.key(self._family(shown, method, weighted))
            if id(found) in same:
                tables[key] = same[id(found)]
            elif found:
                tables[key], same[id(found)] = self._tables(shown, thinned(found, points)), key
        return self.figures | {"tables": tables}

    @cached_property
    def figures(self) -> dict[str, Any]:
        """Everything but the curves' tables, however many points those have."""
        return {
            "traits": self._traits(),
            "figures": {shown.key(): self._curves_figure(shown) for shown in self.shown},
            "histograms": {_key(layers): self._histograms(layers) for layers in self.parts},
            "maps": {name: self._map(name) for name in self.state.parameters},
            "groups": {t.name: t.layer for t in self.state.selection},
            "methods": {
                m.name: {"options": list(m.options), "defaults": {n: m.options[n] for n in OPTIONS if n in m.options}}
                for m in methods.METHODS
            },
            "pairs": [list(pair) for pair in tabulated_pairs()],
            "labels": {layer: layer_label(layer) for layer in self.state.available_layers},
        }

    def _family(self, shown: _Shown, method: str, weighted: bool) -> Family:
        settings = replace(
            self.state.settings, coding=shown.coding, per_layer=shown.per_layer, pinned_zero=shown.pinned_zero
        )
        return settings.family(method, weighted)

    def _tables(self, shown: _Shown, points: Sequence[OperatingPoint]) -> dict[str, Any]:
        """A curve, with the clusters of each group."""
        statistics, bits = self.parts[shown.layers], self.state.selection.unselected_bits
        found = {
            group: live_table(points, group, bits, mean_of_cells(points[0], statistics, group))
            for group in points[0].clusters
        }
        first = next(iter(found.values()))
        shared = {name: single(getattr(first, name)) for name in ("ratio", "rate", "loss", "value", "levels")}
        named = {name: getattr(first, name) for name in ("method", "weighted", "coding", "parameter", "source_bits")}
        ledger = {name: single(bits) for name, bits in first.ledger.items() if bits.any()}
        return named | shared | {"ledger": ledger, "groups": {group: packed_clusters(t) for group, t in found.items()}}

    def _curves_figure(self, shown: _Shown) -> theme.Figure:
        known = [self.curves[shown, *pair] for pair in tabulated_pairs()]
        data = rate_distortion_data([Curve.of_points(points) for points in known if points])
        bound = self.bounds[shown.layers]
        drawn = draw_rate_distortion(data, [] if bound is None else bound_traces(bound, brief=True), SMALL)
        for trace in drawn["data"]:
            trace |= {
                name: single(trace[name])
                for name in ("x", "y", "customdata")
                if isinstance(trace.get(name), np.ndarray)
            }
        return binary(drawn)

    def _histograms(self, layers: tuple[str, ...]) -> dict[str, Any]:
        """Bars of the whole and of each group, of weights and of Σh, plain and logarithmic."""
        statistics = self.parts[layers]
        found = {}
        for per_layer in (False, True):
            for group, cells in statistics.cells(False, False, per_layer).items():
                none = np.zeros(0)
                label = layers_label(layers) if group == WHOLE else layer_label(group)
                zeros = statistics.zeros_of(group) if statistics.pruned else 0
                held: dict[Literal["weights", "Σh"], np.ndarray] = {
                    "weights": cells.prefix[:, 0],
                    "Σh": cells.true_prefix[:, 1],
                }
                bars = [
                    histogram_data(
                        cells.position,
                        np.diff(running),
                        none,
                        np.zeros(0, np.int64),
                        none,
                        pruned_zeros=zeros,
                        label=label,
                        of=of,
                    )
                    for of, running in held.items()
                ]
                found[group] = [[binary(draw_histogram(data, log_count=log)) for log in (False, True)] for data in bars]
        return found

    def _map(self, name: str) -> theme.Figure:
        h = self.state.sensitivity
        if h is None or name not in h:
            return binary(draw_equal_sensitivities(name))
        found = draw_heatmap(heatmap_data(h[name], name=name, pooling=pooling_of(self.state)))
        for trace in found["data"]:
            trace["z"] = np.round(trace["z"], 2).astype(np.float32)  # as precise as it is told, and packs well
        return binary(found)

    def _traits(self) -> dict[str, Any]:
        """First values of the widget's traits."""
        own = ("layout", "tabbable", "tooltip", "comm")
        state = {
            n: v for n, v in self.widget.get_state().items() if n not in own and not n.startswith(("_model", "_view"))
        }
        state = {n: v for n, v in state.items() if n not in ("_esm", "_css", "_dom_classes", "_anywidget_id")}
        needed = {"exact", "finetuned", "comparison"}  # results of the weights themselves
        gone = {panel.name for panel in panels.PANELS if needed & set(panel.follows)}
        for name in gone:
            del state[name]
        controls = [dict(control) for control in state["controls"]]
        for control in controls:
            if control["name"] in FIXED:
                control["disabled"] = control["disabled"] or NEEDS_KERNEL
            if control["name"] == "method":
                control["options"] = [o for o in control["options"] if methods.named(o[1]).curve is not None]
        working = ("undo", "redo", "pin")
        method = self.state.method if self.state.settings.record.curve is not None else tabulated_pairs()[0][0]
        return state | {
            "names": [name for name in self.widget.names if name not in gone],
            "late": [name for name in self.widget.late if name not in gone],
            "controls": controls,
            "blocked": {a["name"]: NEEDS_KERNEL for a in state["actions"] if a["name"] not in working},
            "drive": {},
            "moved": {},
            "clicked": {},
            "region": {},
            "brushed": {},
            "compared": -1,
            "axis": "predicted",
            "versus": [],
            "traced": {},
            "breaks": {},
            "ghosts": [],
            "activity": "",
            "cancelled": False,
            "stale": False,
            "problem": "",
            "outcome": "",
            "code_text": "",
            "method": method,
            "static": True,
            "table": {},
            **{
                name: {}
                for name in self.widget.names
                if self.widget.kinds[name] in ("clusters", "curves", "map") and name not in gone
            },
        }
