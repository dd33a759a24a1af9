"""One widget that holds several plotly figures and draws them in place."""

import base64
import math
from collections.abc import Iterable, Mapping
from typing import Any

import anywidget
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import traitlets

from nbquant.quantization import methods
from nbquant.views import theme
from nbquant.views.palette import (
    BLUE,
    GREEN,
    LEDGER_COLOURS,
    ORANGE,
    OTHER_PART,
    PURPLE,
    VERMILION,
    method_style,
)
from nbquant.widgets.front.bundle import script, style
from nbquant.widgets.settings import SIZES

LEDGER = "ledger"  # the bar of bytes, which has tools as the figures have
MOST_ROWS = 500


def _palette() -> dict[str, Any]:
    """Colours of what the front end draws itself."""
    styles = {method: method_style(method, True) for method in methods.names()}
    return {
        "methods": {method: {"colour": s.colour, "symbol": s.symbol} for method, s in styles.items()},
        "parts": LEDGER_COLOURS,
        "other": OTHER_PART,
        "cell": BLUE,
        "centre": VERMILION,
        "ghosts": [GREEN, ORANGE, PURPLE],
    }


class FigurePanel(anywidget.AnyWidget):
    """Several plotly figures in one widget, with the sliders, numbers and marks that go along with a drag.

    A drag does not wait for the kernel: the front end holds the ``table`` of the chosen method's curve, and draws what
    moves from it at once; the kernel's ``now`` takes its place when it comes. Plotly draws only what rests.

    Each figure is a trait of its own name, so that a change sends that figure alone, and each trait holds the figure as
    it is now, so that a view opened late, after a reload, or without a kernel shows what the others show. (plotly's
    ``FigureWidget`` sends its 5 MB of JavaScript once an instance, and keeps its first state for late viewers.)
    Traces are those of axes in the plane: scatter, bar, heatmap, histogram and their kin.

    Attributes:
        names: Names of the figures, in the order they are laid out; the first spans the panel's width, and the last if
            it would stand alone.
        kinds: Figure name -> "clusters", "curves", "map", "result" or "wide": what is drawn over it, and where it
            stands; see :data:`nbquant.widgets.panels.panel.Kind`.
        late: Names of those that take no room before they are shown.
        descriptions: Figure name -> text read out in its stead.
        clicked: The last point clicked: "figure", "curve", "point", "x", "y", and "serial", which counts clicks; empty
            before the first.
        table: The curve that the sliders run along, or empty: "method", "weighted", "coding", "parameter", "mean_h",
            "source_bits", "weights"; by point "ratio", "rate", "loss", "value" (of the parameter), "levels", and
            "ledger", part -> bits; "start", where a point's entries begin in "centre", "count", "length" and
            "threshold" (one less is used than there are centres; None where cells are not intervals).
        now: The chosen point, or empty: "serial", "driver", "target", "exact", "by_hand", "note"; as in ``table``, but
            of this point, "method", "weighted", "parameter", "value", "ratio", "rate", "loss", "levels", "ledger",
            "centre", "count", "length", "threshold", "mean_h"; "lmbda", and "codeword", texts or None.
        facts: Further numbers after those of the point: "label", "value" and "note" of each, texts.
        ghosts: Codebooks to compare with: "label" and "centre" of each.
        brushed: Outline of some weights in the histogram: "edge", "height", "label"; or empty.
        size: "standard", "compact" for half a screen, or "projection" for a room.
        drive: What was asked for last: "driver", "value" and "serial".
        moved: The centre that was moved by hand last: "index", "value" and "serial"; "serial" alone if it was released.
            One count runs through ``drive`` and ``moved``, and ``now["serial"]`` is the last of both that was handled.
        region: The box selected on a map of weights, in units of its axes: "figure", "x0", "x1", "y0", "y1" and
            "serial"; "serial" alone if none is.

    ``on_msg`` hears what the tools ask for: {"kind": "download", "figure", "format"}, the format "png", "svg" or "csv",
    and {"kind": "table", "figure"}, to be answered by :meth:`offer` and :meth:`show_table`.
    """

    _esm = traitlets.Unicode().tag(sync=True)
    _css = traitlets.Unicode().tag(sync=True)
    _roles = traitlets.Dict(theme.ROLES).tag(sync=True)
    names = traitlets.List(traitlets.Unicode(), read_only=True).tag(sync=True)
    kinds = traitlets.Dict(read_only=True).tag(sync=True)
    late = traitlets.List(traitlets.Unicode(), read_only=True).tag(sync=True)
    descriptions = traitlets.Dict().tag(sync=True)
    clicked = traitlets.Dict().tag(sync=True)
    _palette = traitlets.Dict().tag(sync=True)
    table = traitlets.Dict().tag(sync=True)
    now = traitlets.Dict().tag(sync=True)
    facts: traitlets.List[Any] = traitlets.List().tag(sync=True)
    ghosts: traitlets.List[Any] = traitlets.List().tag(sync=True)
    brushed = traitlets.Dict().tag(sync=True)
    size = traitlets.Enum(SIZES, default_value="standard").tag(sync=True)
    drive = traitlets.Dict().tag(sync=True)
    moved = traitlets.Dict().tag(sync=True)
    region = traitlets.Dict().tag(sync=True)

    def __init__(
        self, names: Iterable[str], kinds: Mapping[str, str] | None = None, late: Iterable[str] = (), **kwargs: Any
    ) -> None:
        """Make a panel of empty figures.

        Args:
            names: Their names.
            kinds: Kinds of figures, by name; others are results.
            late: Those of them that take no room before they are shown.
            **kwargs: Traits of the widget, such as ``layout``.

        Raises:
            ValueError: A name that is given twice, is no identifier, or is one of the widget's own.
        """
        order = list(names)
        wrong = [n for n in order if not n.isidentifier() or hasattr(type(self), n) or order.count(n) > 1]
        if wrong or not order:
            raise ValueError(
                f"names must be distinct identifiers that the widget does not use itself, but {wrong or 'none'} came."
            )
        self.add_traits(**{name: traitlets.Dict(read_only=True).tag(sync=True) for name in order})
        super().__init__(**kwargs)
        self.set_trait("names", order)
        self.set_trait("kinds", dict.fromkeys(order, "result") | dict(kinds or {}))
        self.set_trait("late", [name for name in order if name in set(late)])

    @traitlets.default("_esm")
    def _default_esm(self) -> str:
        return script("figurePanel")

    @traitlets.default("_css")
    def _default_css(self) -> str:
        return style("figure_panel")

    @traitlets.default("_palette")
    def _default_palette(self) -> dict[str, Any]:
        return _palette()

    @traitlets.validate("table", "now", "ghosts", "brushed")
    def _with_bytes(self, proposal: Any) -> Any:
        return binary(proposal["value"])

    def show(self, name: str, figure: go.Figure | theme.Figure) -> None:
        """Show a figure in place of the one of that name; one equal to it changes and sends nothing.

        Several figures that belong together go in one message in a ``with panel.hold_sync():`` block.

        Args:
            name: One of ``names``.
            figure: What to show, a plotly figure or its JSON; later changes to it are not followed.

        Raises:
            ValueError: An unknown name.
        """
        self._check(name, self.names)
        now, old = binary(figure.to_plotly_json() if isinstance(figure, go.Figure) else figure), getattr(self, name)
        if old and now["data"] == old["data"] and now["layout"] == old["layout"]:
            return
        state = {"data": now["data"], "layout": now["layout"], "revision": old.get("revision", 0) + 1}
        self.set_trait(name, state)

    def clear(self, name: str) -> None:
        """Take a figure away; one that comes late takes no room then.

        Raises:
            ValueError: An unknown name.
        """
        self._check(name, self.names)
        if getattr(self, name).get("data"):
            self.set_trait(name, {"revision": self.revision(name) + 1})

    def revision(self, name: str) -> int:
        """Count the changes of a figure; views carry the one they have drawn as ``data-revision``."""
        return int(getattr(self, name).get("revision", 0))

    def offer(self, name: str, mime: str, content: bytes) -> None:
        """Let the browser download a file.

        Args:
            name: Name of the file.
            mime: Its type, for instance "image/png".
            content: What is in it.
        """
        self.send({"kind": "file", "name": name, "mime": mime}, [content])

    def show_table(self, figure: str, frame: pd.DataFrame, most: int = MOST_ROWS) -> None:
        """Show the numbers behind a figure below it, where a view has its table open.

        Args:
            figure: One of ``names``, or "ledger".
            frame: The numbers; what is not finite is left empty.
            most: Rows that are sent.

        Raises:
            ValueError: An unknown figure.
        """
        self._check(figure, [*self.names, LEDGER])
        rows = [[_plain(value) for value in row] for row in frame.head(most).itertuples(index=False, name=None)]
        columns = [str(column) for column in frame.columns]
        self.send({"kind": "table", "figure": figure, "columns": columns, "rows": rows, "total": len(frame)})

    def copy(self, text: str) -> None:
        """Put text on the clipboard; a view that may not shows it selected instead."""
        self.send({"kind": "copy", "text": text})

    def _check(self, name: str, names: Iterable[str]) -> None:
        if name not in names:
            raise ValueError(f"name must be one of {', '.join(map(repr, names))}, but {name!r} was given.")


TYPED = {"i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8"}  # what plotly.js takes


def _plain(value: Any) -> Any:
    """A table's entry as JSON has it."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _typed(array: np.ndarray) -> Any:
    """An array as plotly's JSON describes one, with its bytes; empty ones, and those of text, as lists."""
    if array.size == 0 or array.dtype.kind not in "iuf":
        return array.tolist()
    code = array.dtype.str[1:]
    if code not in TYPED:
        array, code = array.astype(np.float64), "f8"
    spec = {"dtype": code, "bdata": np.ascontiguousarray(array).tobytes()}
    return spec if array.ndim == 1 else spec | {"shape": ", ".join(map(str, array.shape))}


def binary(value: Any) -> Any:
    """Give arrays as bytes, which ipywidgets sends beside the JSON, a quarter smaller than plotly's base64 in it."""
    if isinstance(value, Mapping):
        if "bdata" in value and isinstance(value["bdata"], str):
            return {**value, "bdata": base64.b64decode(value["bdata"])}
        return {key: binary(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _typed(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)):
        return [binary(item) for item in value]
    return value
