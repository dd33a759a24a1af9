"""Matplotlib figures of no pyplot session: shown by a notebook, and saved."""

import io
import threading

from matplotlib.figure import Figure

DPI = 110  # in a notebook
LOCK = threading.RLock()
"""Matplotlib's fonts, mathtext and caches are shared by all figures."""


class NotebookFigure(Figure):
    """As the last value of a cell it is shown, whether pyplot was imported or not."""

    def _repr_png_(self) -> bytes:
        return png(self, DPI)


def png(figure: Figure, dpi: float = 160) -> bytes:
    """The figure as a PNG file.

    Args:
        figure: What one of the functions that draw stills gives.
        dpi: Pixels an inch.
    """
    return _saved(figure, "png", dpi)


def svg(figure: Figure) -> bytes:
    """The same as an SVG file, its letters as outlines, so that it looks alike everywhere."""
    return _saved(figure, "svg", 72)


def _saved(figure: Figure, kind: str, dpi: float) -> bytes:
    buffer = io.BytesIO()
    with LOCK:
        # Without the date equal figures make equal files, which a version control system likes.
        metadata = {"Date": None} if kind == "svg" else {}
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    return buffer.getvalue()
