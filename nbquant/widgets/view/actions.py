"""Describe the actions of an :class:`ExplorerState`, one a button, and when they can do nothing."""

from collections.abc import Callable
from dataclasses import dataclass

from nbquant.widgets.state import ExplorerState


@dataclass(frozen=True)
class Action:
    """A button.

    Attributes:
        name: What it is called in messages.
        label: Its text.
        place: Where it stands: "bar", "prune", "train", "breaks", "formats", "file", "save", "session", or "" for none.
        tooltip: What it does, in a sentence.
        run: What the state does; None if the explorer hands something to the browser.
        blocked: Why it can do nothing now; "" if it can.
    """

    name: str
    label: str
    place: str
    tooltip: str
    run: Callable[[ExplorerState], None] | None
    blocked: Callable[[ExplorerState], str] = lambda state: ""


def _needs_data(state: ExplorerState) -> str:
    return state.lacking


def _needs_module(state: ExplorerState) -> str:
    return "" if state.is_prunable else state.lacking


ACTIONS = (
    Action(
        "undo",
        "Undo",
        "bar",
        "Take the last change of a setting back",
        ExplorerState.undo,
        lambda state: "" if state.can_undo else "nothing was changed",
    ),
    Action(
        "redo",
        "Redo",
        "bar",
        "Make it again",
        ExplorerState.redo,
        lambda state: "" if state.can_redo else "nothing was undone",
    ),
    Action("pin", "Pin", "bar", "Keep this operating point in the table of pins, to compare with", ExplorerState.pin),
    Action(
        "measure",
        "Measure accuracy",
        "bar",
        "Run the test set through the quantized network",
        ExplorerState.measure,
        _needs_data,
    ),
    Action(
        "prune",
        "Prune",
        "prune",
        "Set the smallest weights of the model that was given to zero; with data, train what is left",
        ExplorerState.prune,
        _needs_module,
    ),
    Action(
        "finetune",
        "Fine-tune",
        "train",
        "Train the reconstruction values; the assignment of weights to them stays",
        ExplorerState.finetune,
        _needs_data,
    ),
    Action(
        "breaks",
        "Show what breaks",
        "breaks",
        "Find test samples whose answer is another one than the original's",
        ExplorerState.find_breaks,
        _needs_data,
    ),
    Action(
        "free_layers",
        "Reset",
        "formats",
        "Let the formats of all layers be chosen",
        ExplorerState.free_layers,
        lambda state: "" if state.settings.layer_formats else "no layer has a format of its own",
    ),
    Action(
        "file",
        "Open",
        "file",
        "Inspect the file: bits stored, entropy, distortion and bound of each tensor",
        ExplorerState.open_file,
        lambda state: "" if state.quantized_file else "name a file first",
    ),
    Action("save", "Save", "save", "Write the compressed network to this file", ExplorerState.save),
    Action("download", "Download .nbq", "save", "Download the compressed network", None),
    Action("code", "Copy as code", "session", "The lines that give this result without the explorer", None),
    Action("session", "Save session", "session", "Download all settings and pins as a JSON file", None),
    Action(
        "page",
        "Download page",
        "session",
        "Download the explorer as an HTML page that needs no kernel and no network",
        None,
    ),
    Action("cancel", "Cancel", "", "Stop what is under way", ExplorerState.cancel),
    Action("resume", "Go on", "", "Go on with what was cancelled", ExplorerState.resume),
)
"""All actions, in the order of their buttons."""


def blocked(state: ExplorerState) -> dict[str, str]:
    """Say of each action that can do nothing now why."""
    reasons = {action.name: action.blocked(state) for action in ACTIONS}
    return {name: reason for name, reason in reasons.items() if reason}
