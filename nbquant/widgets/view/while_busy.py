"""Let a widget be answered while a cell runs."""

from typing import Any

import ipywidgets as w


def answer_while_busy(widget: w.Widget) -> None:
    """Let a widget be answered while a cell runs, where the kernel can do that.

    JupyterLab sends what widgets say to a subshell of the kernel, a thread beside the one that runs cells. ipykernel
    7.4 sends it on to the thread that last spoke through the same widget, which is the one of cells: a Cancel button
    would wait for the cell that it is to help against. This takes the front end's choice as it is; kernels without that
    rule or without subshells are left alone.
    """
    if hasattr(widget.comm, "_reply_subshell_for"):
        widget.comm._reply_subshell_for = _as_asked


def _as_asked(data: Any, subshell: str | None) -> str | None:
    return subshell
