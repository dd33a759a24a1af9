"""Buttons that undo, pin, copy as code, keep and restore a session, and hand out the compressed file."""

import json
from collections.abc import Callable

import ipywidgets as w

from nbquant.widgets.front.figure_panel import FigurePanel
from nbquant.widgets.state import ExplorerState
from nbquant.widgets.view.train_and_save import button

JSON = "application/json"


class Actions(w.VBox):
    """A row of buttons, and the code once it is asked for.

    Attributes:
        state: Whose methods the buttons call.
        panel: Through which files and text reach the browser.
    """

    def __init__(self, state: ExplorerState, panel: FigurePanel) -> None:
        """Link the buttons to ``state``."""
        self.state, self.panel = state, panel
        self._undo = button("Undo", "Take the last change of a setting back", "undo")
        self._redo = button("Redo", "Make it again", "repeat")
        self._pin = button("Pin", "Keep this operating point in the table of pins, to compare with", "thumb-tack")
        self._code = button("Copy as code", "The lines that give this result without the explorer", "code")
        self._keep = button("Save session", "Download all settings and pins as a JSON file")
        self._restore = w.FileUpload(
            accept=".json",
            multiple=False,
            description="Restore session",
            tooltip="Take up a session that was saved",
            layout=w.Layout(width="auto"),
        )
        self._download = button("Download .nbq", "Download the compressed network", "download")
        self._text = w.Textarea(layout=w.Layout(width="100%", display="none"))
        self._text.add_class("nbquant-code")
        self._restore.add_class("nbquant-restore")
        row = [self._undo, self._redo, self._pin, self._code, self._keep, self._restore, self._download]
        super().__init__([w.HBox(row, layout=w.Layout(flex_flow="row wrap", align_items="center")), self._text])
        self._link()

    def _link(self) -> None:
        state = self.state
        pressed: dict[w.Button, Callable[[], None]] = {
            self._undo: state.undo,
            self._redo: state.redo,
            self._pin: state.pin,
            self._code: self._show_code,
            self._keep: self._offer_session,
            self._download: lambda: state.deliver(lambda name, content: self.panel.offer(name, OCTETS, content)),
        }
        for each, action in pressed.items():
            each.on_click(lambda _, action=action: action())
        self._restore.observe(lambda change: self._take_session(), "value")
        state.observe(lambda change: self._show_history(), ["can_undo", "can_redo"])
        state.observe(lambda change: self._refresh_code(), ["exact", "finetuned"])
        self._show_history()

    def _show_history(self) -> None:
        self._undo.disabled, self._redo.disabled = not self.state.can_undo, not self.state.can_redo

    def _show_code(self) -> None:
        self._text.layout.display = "flex"
        self._refresh_code()
        self.panel.copy(self._text.value)

    def _refresh_code(self) -> None:
        if self._text.layout.display != "none":
            self._text.value = self.state.code()
            self._text.rows = self._text.value.count("\n") + 1

    def _offer_session(self) -> None:
        content = json.dumps(self.state.session(), indent=1).encode()
        self.panel.offer("nbquant-session.json", JSON, content)

    def _take_session(self) -> None:
        if not self._restore.value:
            return
        content = bytes(self._restore.value[0]["content"])
        self._restore.value = ()  # so that the same file can be taken again
        self.state.restore(content)


OCTETS = "application/octet-stream"
