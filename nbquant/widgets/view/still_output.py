"""Show a still picture beside a widget, for saved notebooks where widgets do not run."""

import base64
import uuid
from collections.abc import Callable
from threading import Lock

from IPython.core.getipython import get_ipython
from IPython.display import display

HIDING = """
.jp-OutputArea-child:has(.nbquant-explorer) + .jp-OutputArea-child:has(.jp-RenderedImage, .jp-RenderedText) {
  display: none;
}
"""
"""Style sheet for the widget: while a view of class ``nbquant-explorer`` lives, the picture or text after it takes no
room."""


class StillOutput:
    """An output of its own that is replaced by newer pictures.

    A widget's view is nothing without its widget: on GitHub, in nbviewer and in exported HTML, and after the kernel is
    gone. An ordinary picture, the next output of the cell, stands there instead. It has a display id, by which later
    pictures replace it in the notebook, wherever the kernel is by then.

    Once the page is reloaded the notebook no longer knows the id: the picture stays as it was saved until the cell runs
    again.
    """

    def __init__(self, render: Callable[[], bytes], text: str = "") -> None:
        """Make an output that is not yet displayed.

        Args:
            render: Draws what is to be seen now, a PNG file; b"" if that is nothing. May be called in any thread that
                calls :meth:`update`, but never in two at once.
            text: What the picture shows, for those who do not see it.
        """
        self._render, self._text = render, text
        self._id = uuid.uuid4().hex
        self._lock = Lock()
        self._shown: bytes | None = None

    def display(self) -> None:
        """Add the picture to the outputs of the cell that runs; nothing, where that is no notebook's."""
        if _in_kernel():
            with self._lock:
                self._shown = self._render()
                self._publish(update=False)

    def update(self) -> None:
        """Replace the picture, if there is one and it changed."""
        if not _in_kernel() or self._shown is None:
            return
        with self._lock:
            # Drawn within the lock, so that of two threads the later one draws later.
            now = self._render()
            if now != self._shown:
                self._shown = now
                self._publish(update=True)

    def _publish(self, *, update: bool) -> None:
        data = {"text/plain": self._text}
        if self._shown:
            data["image/png"] = base64.b64encode(self._shown).decode()
        display(data, raw=True, display_id=self._id, update=update)


def _in_kernel() -> bool:
    """Whether displays go to a notebook: elsewhere each would be a line of text more."""
    return getattr(get_ipython(), "kernel", None) is not None
