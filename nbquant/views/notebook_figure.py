"""A matplotlib figure that a notebook shows by itself."""

import io

from matplotlib.figure import Figure

DPI = 110


class NotebookFigure(Figure):
    """A figure of no pyplot session; as the last value of a cell it is shown, whether pyplot was imported or not."""

    def _repr_png_(self) -> bytes:
        out = io.BytesIO()
        self.savefig(out, format="png", dpi=DPI)
        return out.getvalue()
