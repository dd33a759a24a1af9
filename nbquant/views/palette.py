"""Palette: one colour, dash and label per quantization method, and one colour per part of a file, in all figures.

The colours are Okabe and Ito's (2008), distinguishable with any common colour vision; the weighting also shows in the
dash, so that no figure relies on colour alone.
"""

from dataclasses import dataclass

from nbquant.quantization import methods

BLUE = "#0072B2"
SKY = "#56B4E9"
GREEN = "#009E73"
VERMILION = "#D55E00"
ORANGE = "#E69F00"
PURPLE = "#CC79A7"

LEDGER_COLOURS = {
    "payload": BLUE,
    "code_table": SKY,
    "codebook": GREEN,
    "position_payload": VERMILION,
    "position_table": ORANGE,
    "unquantized": PURPLE,
    "header": "#595959",
    "container": "#8C8C8C",
    "padding": "#BFBFBF",
}
"""Colour of each part of a ledger; other parts have ``OTHER_PART``."""

OTHER_PART = "#808080"


@dataclass(frozen=True)
class MethodStyle:
    """Style of a method.

    Attributes:
        label: Name in legends and read-outs.
        colour: Hex colour of its curve.
        dash: "solid" if it uses the Hessian, "dash" if it does not.
        symbol: Marker of its single points.
    """

    label: str
    colour: str
    dash: str
    symbol: str


COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, OTHER_PART)
SYMBOLS = ("circle", "square", "diamond", "cross", "star", "triangle-up", "hexagon")
"""Markers of series, with the colours of the same places."""


def method_style(method: str, weighted: bool) -> MethodStyle:
    """Look up the style of a method: colour and symbol follow its place in the list of methods.

    Args:
        method: Name of a method.
        weighted: Whether it uses the Hessian.

    Raises:
        ValueError: An unknown method.
    """
    known = methods.named(method)
    place = methods.METHODS.index(known)
    colour, symbol = (kinds[min(place, len(kinds) - 1)] for kinds in (COLOURS, SYMBOLS))
    return MethodStyle(known.label(weighted), colour, "solid" if weighted else "dash", symbol)
