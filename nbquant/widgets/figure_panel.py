"""One widget that holds several plotly figures and draws them in place."""

import base64
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import anywidget
import numpy as np
import plotly.graph_objects as go
import traitlets
from plotly.offline import get_plotlyjs, get_plotlyjs_version

from nbquant.views import theme

FIGURES = ("histogram", "heatmap", "rate_distortion", "finetuning")
LATE = ("finetuning",)

# plotly.js is a UMD script: it looks for CommonJS, then for a global object. As the body of a function with a
# `module` of its own it takes the first, so RequireJS never sees it; the global it sets all the same is put back. It is
# evaluated once a page, however many panels there are.
_WRAPPER = """
const PLOTLY = Symbol.for("nbquant.plotly.js %(version)s");
function loadPlotly() {
  if (globalThis[PLOTLY]) return globalThis[PLOTLY];
  const before = Object.getOwnPropertyDescriptor(globalThis, "Plotly");
  const module = { exports: {} };
  (function (module, exports, define) {
%(plotly)s
  }).call(globalThis, module, module.exports, undefined);
  if (before) Object.defineProperty(globalThis, "Plotly", before);
  else delete globalThis.Plotly;
  globalThis[PLOTLY] = module.exports;
  return module.exports;
}
"""


@cache
def _bundle() -> str:
    """The front end with plotly.js in it, as one ES module that fetches nothing."""
    wrapper = _WRAPPER % {"version": get_plotlyjs_version(), "plotly": get_plotlyjs()}
    return wrapper + _beside("figure_panel.js")


def _beside(name: str) -> str:
    return (files("nbquant.widgets") / name).read_text(encoding="utf-8")


class FigurePanel(anywidget.AnyWidget):
    """Several plotly figures in one widget.

    Each figure is a trait of its own name, so that a change sends that figure alone, and each trait holds the figure as
    it is now, so that a view opened late, after a reload, or without a kernel shows what the others show. (plotly's
    ``FigureWidget`` sends its 5 MB of JavaScript once an instance, and keeps its first state for late viewers.)

    Attributes:
        names: Names of the figures, in the order they are laid out; the first spans the panel's width, and the last if
            it would stand alone.
        late: Names of those that take no room before they are shown.
        descriptions: Figure name -> text read out in its stead.
        clicked: The last point clicked: "figure", "curve", "point", "x", "y", and "serial", which counts clicks; empty
            before the first.
    """

    _esm = traitlets.Unicode().tag(sync=True)
    _css = traitlets.Unicode().tag(sync=True)
    _roles = traitlets.Dict(theme.ROLES).tag(sync=True)
    names = traitlets.List(traitlets.Unicode(), read_only=True).tag(sync=True)
    late = traitlets.List(traitlets.Unicode(), read_only=True).tag(sync=True)
    descriptions = traitlets.Dict().tag(sync=True)
    clicked = traitlets.Dict().tag(sync=True)

    def __init__(self, names: Iterable[str] = FIGURES, late: Iterable[str] = LATE, **kwargs: Any) -> None:
        """Make a panel of empty figures.

        Args:
            names: Their names.
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
        self.set_trait("late", [name for name in order if name in set(late)])

    @traitlets.default("_esm")
    def _default_esm(self) -> str:
        return _bundle()

    @traitlets.default("_css")
    def _default_css(self) -> str:
        return _beside("figure_panel.css")

    def show(self, name: str, figure: go.Figure | theme.Figure) -> None:
        """Show a figure in place of the one of that name; one equal to it changes and sends nothing.

        Several figures that belong together go in one message in a ``with panel.hold_sync():`` block.

        Args:
            name: One of ``names``.
            figure: What to show, a plotly figure or its JSON; later changes to it are not followed.

        Raises:
            ValueError: An unknown name.
        """
        if name not in self.names:
            raise ValueError(f"name must be one of {', '.join(map(repr, self.names))}, but {name!r} was given.")
        now, old = _binary(figure.to_plotly_json() if isinstance(figure, go.Figure) else figure), getattr(self, name)
        if old and now["data"] == old["data"] and now["layout"] == old["layout"]:
            return
        state = {"data": now["data"], "layout": now["layout"], "revision": old.get("revision", 0) + 1}
        self.set_trait(name, state)

    def revision(self, name: str) -> int:
        """Count the changes of a figure; views carry the one they have drawn as ``data-revision``."""
        return int(getattr(self, name).get("revision", 0))


TYPED = {"i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8"}  # what plotly.js takes


def _typed(array: np.ndarray) -> Any:
    """An array as plotly's JSON describes one, with its bytes; empty ones, and those of text, as lists."""
    if array.size == 0 or array.dtype.kind not in "iuf":
        return array.tolist()
    code = array.dtype.str[1:]
    if code not in TYPED:
        array, code = array.astype(np.float64), "f8"
    spec = {"dtype": code, "bdata": np.ascontiguousarray(array).tobytes()}
    return spec if array.ndim == 1 else spec | {"shape": ", ".join(map(str, array.shape))}


def _binary(value: Any) -> Any:
    """Arrays as bytes, which ipywidgets sends beside the JSON, a quarter smaller than plotly's base64 in it."""
    if isinstance(value, Mapping):
        if "bdata" in value and isinstance(value["bdata"], str):
            return {**value, "bdata": base64.b64decode(value["bdata"])}
        return {key: _binary(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _typed(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)):
        return [_binary(item) for item in value]
    return value
