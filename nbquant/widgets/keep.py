"""Controls that measure, fine-tune and save what was chosen, what is under way, and where the bits go."""

from html import escape
from typing import Any

import ipywidgets as w

from nbquant.coding.ledger import Ledger
from nbquant.widgets.readout import ledger_table, size_text
from nbquant.widgets.state import ExplorerState

MOST_EPOCHS = 1000


class Keep(w.VBox):
    """A row of controls, a line that tells what goes on, and the ledger.

    Attributes:
        state: Whose ``measure``, ``finetune``, ``save`` and ``cancel`` the buttons call.
    """

    def __init__(self, state: ExplorerState) -> None:
        """Link the controls to ``state``."""
        self.state = state
        self._measure = _button("Measure accuracy", "Run the test set through the quantized network", "140px")
        self._finetune = _button("Fine-tune", "Train the reconstruction values; which weight has which stays", "96px")
        self._epochs = w.BoundedIntText(
            value=state.epochs,
            min=1,
            max=max(MOST_EPOCHS, state.epochs),
            description="Epochs",
            style={"description_width": "48px"},
            layout=w.Layout(width="118px"),
        )
        self._path = w.Text(
            value=state.path,
            description="Path",
            tooltip="Where to save: a file that ends in .nbq",
            continuous_update=False,
            style={"description_width": "40px"},
            layout=w.Layout(flex="1 1 180px", max_width="330px"),
        )
        self._save = _button("Save", "Write the compressed network to this file", "72px")
        self._cancel = _button("Cancel", "Stop what is under way", "72px")
        self._bar = w.FloatProgress(min=0, max=1, layout=w.Layout(width="160px"))
        self._activity = w.Label()
        self._work = w.HBox([self._bar, self._activity, self._cancel], layout=w.Layout(align_items="center"))
        self._work.add_class("nbquant-work")
        self._outcome = w.HTML()
        self._ledger = w.HTML()
        row = [self._measure, self._finetune, self._epochs, self._path, self._save]
        line = w.Layout(align_items="center", min_height="34px")
        super().__init__(
            [
                w.HBox(row, layout=w.Layout(flex_flow="row wrap", align_items="center")),
                w.HBox([self._outcome, self._work], layout=line),
                self._ledger,
            ]
        )
        if state.lacking:
            for control in (self._measure, self._finetune, self._epochs):
                control.disabled, control.tooltip = True, f"Not here: {state.lacking}"
        self._link()

    def _link(self) -> None:
        state = self.state
        for name, control in (("epochs", self._epochs), ("path", self._path)):
            control.observe(lambda change, name=name: setattr(state, name, change["new"]), "value")
            state.observe(lambda change, control=control: setattr(control, "value", change["new"]), name)
        buttons = {
            self._measure: state.measure,
            self._finetune: state.finetune,
            self._save: state.save,
            self._cancel: state.cancel,
        }
        for button, action in buttons.items():
            button.on_click(lambda _, action=action: action())
        for names, show in (
            (["activity", "progress"], self._show_work),
            (["saved", "pruned"], self._show_outcome),
            (["point", "exact", "ledger", "finetuned"], self._show_ledger),
        ):
            state.observe(lambda change, show=show: show(), names)
            show()

    def _show_work(self) -> None:
        busy = bool(self.state.activity)
        # One line for both, so that nothing below it moves.
        self._work.layout.display = "flex" if busy else "none"
        self._outcome.layout.display = "none" if busy else "flex"
        self._activity.value = self.state.activity
        self._bar.value = max(self.state.progress, 0.0)

    def _show_outcome(self) -> None:
        saved, pruned = self.state.saved, self.state.pruned
        said = []
        if pruned is not None:
            said.append(f"Pruned to a density of {pruned.density:.3g}.")
        if saved is not None:
            said.append(f"Saved {saved.path}: {saved.size:,} bytes ({size_text(saved.size)}).")
        self._outcome.value = f'<div class="nbquant-outcome" aria-live="polite">{escape(" ".join(said))}</div>'

    def _show_ledger(self) -> None:
        ledger = self._newest()
        if ledger is not None:
            self._ledger.value = ledger_table(ledger)

    def _newest(self) -> Ledger | None:
        """Of the file that would be saved; until it is known, of what would be in it beside names and checksums."""
        state = self.state
        if state.ledger is not None:
            return state.ledger
        costs: Any = state.point if state.kept is None else state.kept
        return None if costs is None else costs.ledger + Ledger(unquantized=state.selection.unselected_bits)


def _button(description: str, tooltip: str, width: str) -> w.Button:
    return w.Button(description=description, tooltip=tooltip, layout=w.Layout(width=width))
