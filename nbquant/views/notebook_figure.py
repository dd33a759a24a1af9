"""Matplotlib figures outside pyplot, shown by notebooks and saved as PNG or SVG."""

import io
import threading

from matplotlib.figure import Figure

DPI = 110  # in a notebook
LOCK = threading.RLock()
"""Lock for matplotlib's fonts, mathtext and caches, which all figures share."""


class NotebookFigure(Figure):
    """A figure that is shown as the last value of a cell, whether pyplot was imported or not."""

    def _repr_png_(self) -> bytes:
        return png(self, DPI)


def png(figure: Figure, dpi: float = 160) -> bytes:
    """Render a figure as PNG.

    Args:
        figure: A matplotlib figure.
        dpi: Resolution [pixel/inch].
    """
    return _saved(figure, "png", dpi)


def svg(figure: Figure) -> bytes:
    """Render a figure as SVG, with letters as outlines, so that it looks the same everywhere."""
    return _saved(figure, "svg", 72)


def _saved(figure: Figure, kind: str, dpi: float) -> bytes:
    buffer = io.BytesIO()
    with LOCK:
        # Without the date, equal figures give equal files, as version control prefers.
        metadata = {"Date": None} if kind == "svg" else {}
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    return buffer.getvalue()
