"""Bar of controls that prune, measure, fine-tune and save, with the progress of jobs."""

from html import escape

import ipywidgets as w

from nbquant.widgets.state import ExplorerState
from nbquant.widgets.view.readout import size_text

MOST_EPOCHS = 1000


class TrainAndSaveBar(w.VBox):
    """A row of controls, and a line that tells what goes on.

    Attributes:
        state: Whose ``prune``, ``measure``, ``finetune``, ``save`` and ``cancel`` the buttons call.
    """

    def __init__(self, state: ExplorerState) -> None:
        """Link the controls to ``state``."""
        self.state = state
        self._measure = button("Measure accuracy", "Run the test set through the quantized network")
        self._finetune = button("Fine-tune", "Train the reconstruction values; which weight has which stays")
        self._epochs = w.BoundedIntText(
            value=state.epochs,
            min=1,
            max=max(MOST_EPOCHS, state.epochs),
            description="Epochs",
            style={"description_width": "52px"},
            layout=w.Layout(width="112px"),
        )
        self._prune = button(
            "Prune",
            "Set the smallest weights of the model that was given to zero; with data, train what is left",
        )
        self._density = w.BoundedFloatText(
            value=state.density,
            min=0.001,
            max=1.0,
            step=0.01,
            description="Density",
            style={"description_width": "56px"},
            layout=w.Layout(width="126px"),
        )
        self._path = w.Text(
            value=state.path,
            description="Path",
            tooltip="Where to save: a file that ends in .nbq",
            continuous_update=False,
            style={"description_width": "34px"},
            layout=w.Layout(flex="1 1 160px", max_width="300px"),
        )
        self._save = button("Save", "Write the compressed network to this file")
        self._cancel = button("Cancel", "Stop what is under way")
        self._bar = w.FloatProgress(min=0, max=1, layout=w.Layout(width="160px"))
        self._activity = w.Label()
        self._work = w.HBox([self._bar, self._activity, self._cancel], layout=w.Layout(align_items="center"))
        self._work.add_class("nbquant-work")
        self._outcome = w.HTML()
        row = [self._prune, self._density, self._measure, self._finetune, self._epochs, self._path, self._save]
        line = w.Layout(align_items="center", min_height="34px")
        super().__init__(
            [
                w.HBox(row, layout=w.Layout(flex_flow="row wrap", align_items="center")),
                w.HBox([self._outcome, self._work], layout=line),
            ]
        )
        lacking = {self._measure, self._finetune, self._epochs} if state.lacking else set()
        if not state.is_prunable:
            lacking |= {self._prune, self._density}
        for control in lacking:
            control.disabled, control.tooltip = True, f"Not here: {state.lacking}"
        self._link()

    def _link(self) -> None:
        state = self.state
        for name, control in (("epochs", self._epochs), ("density", self._density), ("path", self._path)):
            control.observe(lambda change, name=name: setattr(state, name, change["new"]), "value")
            state.observe(lambda change, control=control: setattr(control, "value", change["new"]), name)
        buttons = {
            self._prune: state.prune,
            self._measure: state.measure,
            self._finetune: state.finetune,
            self._save: state.save,
            self._cancel: state.cancel,
        }
        for pressed, action in buttons.items():
            pressed.on_click(lambda _, action=action: action())
        for names, show in (
            (["activity", "progress", "pace"], self._show_work),
            (["saved", "pruned"], self._show_outcome),
        ):
            state.observe(lambda change, show=show: show(), names)
            show()

    def _show_work(self) -> None:
        busy = bool(self.state.activity)
        # One line for both, so that nothing below it moves.
        self._work.layout.display = "flex" if busy else "none"
        self._outcome.layout.display = "none" if busy else "flex"
        self._activity.value = ": ".join(filter(None, (self.state.activity, self.state.pace)))
        self._bar.value = max(self.state.progress, 0.0)

    def _show_outcome(self) -> None:
        saved, pruned = self.state.saved, self.state.pruned
        said = []
        if pruned is not None:
            said.append(f"Pruned to a density of {pruned.density:.3g}.")
        if saved is not None:
            said.append(f"Saved {saved.path}: {saved.size:,} bytes ({size_text(saved.size)}).")
        self._outcome.value = f'<div class="nbquant-outcome" aria-live="polite">{escape(" ".join(said))}</div>'


def button(description: str, tooltip: str, icon: str = "") -> w.Button:
    """A button as wide as its text."""
    return w.Button(description=description, tooltip=tooltip, icon=icon, layout=w.Layout(width="auto"))
