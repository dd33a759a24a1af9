"""Describe the controls of an :class:`ExplorerState`: label, kind and choices of each input."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from nbquant.coding import codes
from nbquant.quantization import methods
from nbquant.sensitivity import estimators
from nbquant.widgets.state import ExplorerState

DAMPINGS = (0.0, 1e-3, 1e-2, 0.1, 1.0, 10.0)
SIZES = {"standard": "standard", "half a screen": "compact", "projection": "projection"}
MOST_EPOCHS = 1000
MOST_SAMPLES = 1_000_000_000
_AXES = {"predicted loss": "predicted", "accuracy lost": "accuracy", "KL divergence": "divergence"}
REGION = "region_text"  # an input of the view alone
FORMATS = "formats_text"  # likewise


@dataclass(frozen=True)
class Control:
    """A control of one input.

    Attributes:
        name: Name of the input.
        label: What is written beside it.
        kind: A "choice" of several, a "flag", a "number" or a "text".
        place: Where it stands: "method", "formats", "sensitivity", "picture", "curves", "file", "pins", "prune",
            "train" or "save".
        tooltip: What it means, in a sentence.
        options: Of a choice: label and value of each.
        least: Least number.
        most: Largest number.
        step: Between two numbers.
        whole: Whether only whole numbers go.
        placeholder: Of a text: an example.
        disabled: Why it cannot be used now; "" if it can.
    """

    name: str
    label: str
    kind: Literal["choice", "flag", "number", "text"]
    place: str
    tooltip: str = ""
    options: tuple[tuple[str, Any], ...] = ()
    least: float = 0.0
    most: float = 0.0
    step: float = 1.0
    whole: bool = False
    placeholder: str = ""
    disabled: str = ""


def controls(state: ExplorerState) -> list[dict[str, Any]]:
    """Describe all controls as they are now, as plain values."""
    lacking = state.lacking
    prunable = "" if state.is_prunable else lacking
    dampings = sorted({*DAMPINGS, state.damping})
    return [
        asdict(control)
        for control in (
            _choice("method", "Method", "method", _methods()),
            _option(state, "weighted", "Weighting", {"Hessian": True, "none": False}),
            _option(state, "coding", "Coding", {code.label: code.name for code in codes.CODES}),
            _option(state, "per_layer", "Codebook", {"joint": False, "per layer": True}),
            Control(
                "pinned_zero",
                "pinned zero",
                "flag",
                "method",
                "One level of k-means is exactly zero",
                disabled=_missing(state, "pinned_zero"),
            ),
            Control(
                FORMATS,
                "Formats",
                "text",
                "formats",
                "Block formats that each layer may have, such as q4_k, q8_0, nf4 or int4/64",
                placeholder="q4_k, q6_k, q8_0",
                disabled=_missing(state, "formats"),
            ),
            _choice(
                "search",
                "Scales",
                "formats",
                {"least error": True, "as the library": False},
                _missing(state, "search"),
            ),
            _choice("estimator", "Estimator", "sensitivity", {e.label: e.name for e in estimators.ESTIMATORS}, lacking),
            Control(
                "samples",
                "Samples",
                "number",
                "sensitivity",
                "How many calibration samples the estimator sees; 0 is all of them",
                most=MOST_SAMPLES,
                whole=True,
                disabled=lacking,
            ),
            _choice("damping", "Damping ε", "sensitivity", {f"{d:g}": d for d in dampings}),
            Control(
                "measure_at_rest",
                "measure at rest",
                "flag",
                "sensitivity",
                "A point that has come to rest is measured on as many samples as take about a second",
                disabled=lacking,
            ),
            _choice("focus", "Focus", "picture", {name: name for name in state.parameters}),
            Control(
                REGION,
                "Region",
                "text",
                "picture",
                "Part of the maps whose weights the histogram outlines; the mouse brushes it; empty is none",
                placeholder="rows, columns: 0:10, 5:20",
            ),
            _choice("pooling", "Maps show", "picture", {"greatest of a cell": "max", "mean of a cell": "mean"}),
            _choice("bars", "Bars show", "picture", {"weights": "weights", "Σh, the loss's mass": "h"}),
            Control("log_count", "logarithmic bars", "flag", "picture", "Scale of the histogram's bars"),
            _choice("size", "Size", "picture", SIZES),
            _choice("axis", "shows", "curves", _AXES, lacking),
            Control(
                "all_formats",
                "block formats",
                "flag",
                "curves",
                "Show all block formats of other libraries on this selection; a click chooses one",
            ),
            Control(
                "quantized_file",
                "File",
                "text",
                "file",
                "A file that another library has quantized, such as a GGUF file; empty is none",
                placeholder="model.gguf",
            ),
            _choice("compared", "Compare now with", "pins", _pins(state)),
            Control(
                "density",
                "Density",
                "number",
                "prune",
                "Part of the weights that pruning keeps",
                least=0.001,
                most=1.0,
                step=0.01,
                disabled=prunable,
            ),
            Control(
                "epochs",
                "Epochs",
                "number",
                "train",
                "Passes over the training batches",
                least=1,
                most=max(MOST_EPOCHS, state.epochs),
                whole=True,
                disabled=lacking,
            ),
            Control("path", "Path", "text", "save", "Where to save: a file that ends in .nbq", placeholder="model.nbq"),
        )
    ]


def _choice(name: str, label: str, place: str, options: Mapping[str, Any], disabled: str = "") -> Control:
    return Control(name, label, "choice", place, options=tuple(options.items()), disabled=disabled)


def _option(state: ExplorerState, name: str, label: str, options: Mapping[str, Any]) -> Control:
    missing = _missing(state, name)
    fixed = getattr(state.settings.record.make, name, None) if missing else None
    for text, value in options.items():
        if fixed is not None and value == fixed:  # what holds whatever the setting is
            return _choice(name, label, "method", {text: getattr(state, name)}, missing)
    return _choice(name, label, "method", options, missing)


def _missing(state: ExplorerState, name: str) -> str:
    """Why an option has no effect now."""
    record = state.settings.record
    return "" if name in record.options else f"not an option of {record.title}"


def _pins(state: ExplorerState) -> dict[str, Any]:
    """Places of pins by what they are called; labels may be equal, and then have their places."""
    labels = [pin.label for pin in state.pins]
    called = [f"{label} ({i + 1})" if labels.count(label) > 1 else label for i, label in enumerate(labels)]
    pins = {
        f"{c}: {p.inputs.method} {p.ratio:.1f}×": i for i, (c, p) in enumerate(zip(called, state.pins, strict=True))
    }
    return {"no pin": -1} | pins


def _methods() -> dict[str, str]:
    """Labels of all methods; those without a curve have to run."""
    return {m.title + " (runs)" * (m.curve is None): m.name for m in methods.METHODS}
