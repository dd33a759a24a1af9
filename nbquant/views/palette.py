"""One colour, line and name a quantization method, and a colour a part of a file, the same in every figure.

Colours are Okabe and Ito's (2008), which readers with any common colour vision tell apart; the weighting shows in the
dash as well, so that no figure rests on colour alone.
"""

from dataclasses import dataclass

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
"""Colour of each part of a ledger; parts of other names are ``OTHER_PART``."""

OTHER_PART = "#808080"


@dataclass(frozen=True)
class MethodStyle:
    """How a method is drawn.

    Attributes:
        label: Its name in legends and read-outs.
        colour: Hex colour of its curve.
        dash: "solid" if it uses the Hessian, "dash" if it does not.
        symbol: Marker of its single points.
    """

    label: str
    colour: str
    dash: str
    symbol: str


_COLOUR = {"kmeans": BLUE, "uniform": VERMILION, "ecsq": GREEN, "trellis": ORANGE, "feedback": PURPLE}
_SYMBOL = {"kmeans": "circle", "uniform": "square", "ecsq": "diamond", "trellis": "cross", "feedback": "star"}
_LABEL = {
    ("kmeans", False): "k-means",
    ("kmeans", True): "Hessian-weighted k-means",
    ("uniform", False): "uniform",
    ("uniform", True): "uniform, Hessian-weighted centres",
    ("ecsq", False): "ECSQ",
    ("ecsq", True): "Hessian-weighted ECSQ",
    ("trellis", False): "trellis",
    ("trellis", True): "Hessian-weighted trellis",
    ("feedback", False): "error feedback, outputs alike",
    ("feedback", True): "error feedback",
}

METHOD_STYLES = tuple(_COLOUR)
"""Methods that have a style."""


def method_style(method: str, weighted: bool) -> MethodStyle:
    """Look up how a method is drawn.

    Args:
        method: "kmeans", "uniform", "ecsq", "trellis" or "feedback".
        weighted: Whether it uses the Hessian.

    Raises:
        ValueError: An unknown method.
    """
    if method not in _COLOUR:
        raise ValueError(f"method must be one of {', '.join(map(repr, _COLOUR))}, but {method!r} was given.")
    label = _LABEL[method, bool(weighted)]
    return MethodStyle(label, _COLOUR[method], "solid" if weighted else "dash", _SYMBOL[method])
