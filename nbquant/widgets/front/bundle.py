"""Join the front end's parts into one ES module and one style sheet."""

import base64
import gzip
import re
from functools import cache
from importlib.resources import files

# plotly.js as plotly publishes it for axes in the plane, all that the figures need: of the whole that the Python
# package brings it is a third, and so is the time that a browser takes to evaluate it.
PLOTLY_JS = "plotly/plotly-cartesian.min.js"
PLOTLY_VERSION = "4.1.1"

# The front end, in the order that it is put together.
_PARTS = (
    "arrays",
    "theme",
    "numbers",
    "live",
    "play",
    "drive",
    "readout",
    "ledger_bar",
    "surface",
    "morph",
    "clusters",
    "chosen",
    "brush",
    "tools",
    "heads",
    "steer",
    "figures",
    "figure_panel",
    "data_table",
    "settings",
    "versus",
    "trace",
    "breaks",
    "layer_bits",
    "tabs",
    "cockpit",
)

# plotly.js is a UMD script: it looks for CommonJS, then for a global object. As the body of a function with a
# `module` of its own it takes the first, so RequireJS never sees it; the global it sets all the same is put back.
_PLOTLY = """
const before = Object.getOwnPropertyDescriptor(globalThis, "Plotly");
const module = { exports: {} };
(function (module, exports, define) {
%s
}).call(globalThis, module, module.exports, undefined);
if (before) Object.defineProperty(globalThis, "Plotly", before);
else delete globalThis.Plotly;
export default module.exports;
"""
# A function that is an argument is parsed when it is passed, and once more when it is called, unless it stands in
# brackets: for plotly.js that is a tenth of a second.
_FACTORY = re.compile(r"(?<= this, )(\(\) => \{\n.*\})(?=\)\);\s*$)", re.DOTALL)
# It goes packed, half its size, and is unpacked and evaluated once a page, however many panels there are.
_LOADER = """
const PLOTLY = Symbol.for("nbquant.plotly.js %(version)s");
const PACKED = "%(packed)s";
async function unpackedPlotly() {
  const packed = new Blob([Uint8Array.from(atob(PACKED), (letter) => letter.charCodeAt(0))]);
  const unpacked = packed.stream().pipeThrough(new DecompressionStream("gzip"));
  const script = await new Response(unpacked, { headers: { "Content-Type": "text/javascript" } }).blob();
  const address = URL.createObjectURL(script);
  try {
    return (await import(address)).default;
  } finally {
    URL.revokeObjectURL(address);
  }
}
const loadPlotly = () => (globalThis[PLOTLY] ??= unpackedPlotly());
"""
_PACKING = 3  # level of gzip: hardly larger than at its best, in half the time


@cache
def script(entry: str) -> str:
    """Join the front end, with plotly.js in it, into one ES module that fetches nothing.

    Args:
        entry: Name of its function that renders the widget.
    """
    plotly = _PLOTLY % _FACTORY.sub(r"(\1)", _beside(PLOTLY_JS))
    packed = gzip.compress(plotly.encode(), _PACKING, mtime=0)
    loader = _LOADER % {"version": PLOTLY_VERSION, "packed": base64.b64encode(packed).decode()}
    parts = [part(name) for name in _PARTS]
    return "\n".join([loader, *parts, f"export default {{ render: {entry} }};\n"])


def part(name: str) -> str:
    """One part of the front end, which is no module by itself."""
    return _beside(f"{name}.js")


@cache
def style(*names: str) -> str:
    """Join style sheets of the front end."""
    return "\n".join(_beside(f"{name}.css") for name in names)


def _beside(name: str) -> str:
    return (files("nbquant.widgets.front") / name).read_text(encoding="utf-8")
