"""The explorer's tables, linked to an :class:`ExplorerState`: layers, codewords, pinned operating points."""

from typing import Any

import pandas as pd

from nbquant.models.layers import layer_label
from nbquant.views.palette import method_style
from nbquant.widgets.front.data_table import Column, DataTable
from nbquant.widgets.state import ExplorerState
from nbquant.widgets.view.readout import predicted_loss

LAYERS = (
    Column("layer", "layer"),
    Column("weights", "weights", "number", ",.0f", "Parameters of the layer"),
    Column("share_of_rate", "rate", "bar", ".1%", "Share of the bits that the selection takes"),
    Column("share_of_loss", "predicted loss", "bar", ".1%", "Share of the predicted loss increase"),
    Column("mean_sensitivity", "mean h", "number", ".2e", "Mean of the Hessian diagonal [loss/weight²], undamped"),
)
CODEWORDS = (
    Column("centre", "centre", "number", ".4e", "Reconstruction value [weight]"),
    Column("count", "weights", "number", ",.0f", "Weights that it stands for"),
    Column("share", "share", "bar", ".1%", "Share of the quantized weights"),
    Column("codeword", "codeword", "text", "code", "Its codeword in the file"),
    Column("codeword_length", "bits", "number", ".0f", "Length of the codeword [bit]"),
    Column("share_of_rate", "rate", "bar", ".1%", "Share of the bits of all codewords"),
    Column("share_of_loss", "predicted loss", "bar", ".1%", "Share of the predicted loss increase"),
)
PINS = (
    Column("label", "pin"),
    Column("method", "method"),
    Column("ratio", "ratio", "number", ".2f", "Compression ratio"),
    Column("d_ratio", "Δ ratio", "number", "+.1%", "Against what is chosen now"),
    Column("rate", "bit/weight", "number", ".3f", "Rate, side information included"),
    Column("levels", "levels", "number", ",.0f"),
    Column("loss", "predicted loss", "number", ".3g", "Predicted loss increase"),
    Column("d_loss", "Δ loss", "number", "+.1%", "Against what is chosen now"),
    Column("accuracy", "accuracy", "number", ".2%", "Measured on the test set"),
    Column("d_accuracy", "Δ points", "number", "+.2f", "Percentage points against what was measured now"),
    Column("bytes", "bytes", "number", ",.0f", "Size of the file"),
    Column("d_bytes", "Δ bytes", "number", "+.1%", "Against what is chosen now"),
    Column("go", "Go to", "action", tooltip="Take up all its settings"),
    Column("remove", "✕", "action", tooltip="Remove the pin"),
)

FILE = (
    Column("name", "tensor"),
    Column("format", "kind"),
    Column("size", "weights", "number", ",.0f"),
    Column("stored", "stored", "number", ".2f", "Stored bits per weight"),
    Column("entropy", "entropy", "number", ".2f", "With ideal codes of codes and scales [bit/weight]"),
    Column("bound_rate", "bound", "number", ".2f", "Rate-distortion function at its distortion [bit/weight]"),
    Column("bits_wasted", "wasted", "number", ".2f", "Stored bits above the bound [bit/weight]"),
    Column("distortion", "distortion", "number", ".2e", "Against the network that is open [loss/weight]"),
    Column("used", "levels", "number", ",.0f", "Codes in use"),
    Column("zeros_lost", "zeros lost", "number", ",.0f", "Zeros of the network that are not zero in the file"),
    Column("signs_flipped", "signs", "number", ",.0f", "Weights whose sign changed"),
)


def layers_table(state: ExplorerState) -> DataTable:
    """All layers of the model: checked are those that are selected, focused is that of the parameter in focus."""
    table = DataTable(
        columns=[Column("selected", "", "check", tooltip="Quantize this layer"), *LAYERS],
        caption="Layers",
        key="layer",
    )

    def show_rows() -> None:
        table.rows = layer_rows(state)

    def show_marks() -> None:
        table.checked = [layer_label(name) for name in state.layers]
        table.focused = "" if state.focused is None else layer_label(state.focused.layer)

    def take_focus(change: Any) -> None:
        inside = [t for t in state.selection if layer_label(t.layer) == change["new"]]
        if inside and (state.focused is None or state.focused.layer != inside[0].layer):
            state.focus = max(inside, key=lambda t: t.weight.numel()).name

    def take_checks(change: Any) -> None:
        # In the model's order, whatever the order that they were checked in; unknown ones are the state's to refuse.
        checked = [name for name in state.available_layers if layer_label(name) in change["new"]]
        if checked != [name for name in state.available_layers if name in state.layers]:
            state.layers = tuple(checked)

    show_rows()
    show_marks()
    state.observe(lambda change: show_rows(), ["breakdown", "layers", "pruned"])
    state.observe(lambda change: show_marks(), ["layers", "focus"])
    table.observe(take_focus, "focused")
    table.observe(take_checks, "checked")
    return table


def layer_rows(state: ExplorerState) -> list[dict[str, Any]]:
    """A row a layer; what is known of its part in rate and loss only where it is selected."""
    sizes = state.layer_sizes
    known = {} if state.breakdown is None else state.breakdown.layers.set_index("layer").to_dict("index")
    names = ("share_of_rate", "share_of_loss", "mean_sensitivity")
    return [
        {"layer": layer_label(name), "weights": size}
        | {key: known[name][key] if name in known else None for key in names}
        for name, size in sizes.items()
    ]


def codebook_table(state: ExplorerState) -> DataTable:
    """The codewords of the group that is shown, once the weights themselves were quantized."""
    table = DataTable(columns=list(CODEWORDS), caption="Codebook", key="key")

    def show() -> None:
        if state.breakdown is None or state.group not in state.breakdown.codewords:
            return
        group = state.group
        rows = state.breakdown.codewords[group].to_dict("records")
        table.rows = [row | {"key": str(i)} for i, row in enumerate(rows)]
        table.caption = "Codebook" if len(state.breakdown.codewords) == 1 else f"Codebook of {layer_label(group)}"

    show()
    state.observe(lambda change: show(), ["breakdown", "focus"])
    return table


def pins_table(state: ExplorerState) -> DataTable:
    """What is chosen now, and the pinned operating points with their differences from it."""
    table = DataTable(columns=list(PINS), caption="Pinned points, Δ against the point now", key="key")

    def show() -> None:
        table.rows = pin_rows(state)

    def take_press(change: Any) -> None:
        pressed = change["new"]
        if not pressed:
            return
        index = int(pressed["key"])
        (state.go_to if pressed["action"] == "go" else state.unpin)(index)

    show()
    state.observe(lambda change: show(), ["pins", "exact", "ledger", "measurement"])

    def show_compared() -> None:
        table.focused = str(state.compared) if state.compared >= 0 else ""

    state.observe(lambda change: show_compared(), ["compared"])
    table.observe(take_press, "pressed")
    table.observe(lambda change: setattr(state, "compared", int(table.focused or -1)), ["focused"])
    return table


def pin_rows(state: ExplorerState) -> list[dict[str, Any]]:
    """A row a pin, with relative differences from the present operating point."""
    point = state.point
    now: dict[str, Any] = {}
    if point is not None:
        costs = point if state.kept is None else state.kept
        now = {
            "ratio": costs.compression_ratio,
            "loss": predicted_loss(state),
            "accuracy": None if state.measurement is None else state.measurement.evaluation.accuracy,
            "bytes": None if state.ledger is None else state.ledger.total / 8,
        }
    rows = []
    for i, pin in enumerate(state.pins):
        row = {
            "key": str(i),
            "label": pin.label,
            "method": method_style(pin.inputs.method, pin.inputs.weighted).label,
            "ratio": pin.ratio,
            "rate": pin.rate,
            "levels": pin.levels,
            "loss": pin.predicted_loss,
            "accuracy": pin.accuracy,
            "bytes": pin.bits / 8,
            "go": True,
            "remove": True,
        }
        for name in ("ratio", "loss", "bytes"):
            row[f"d_{name}"] = row[name] / now[name] - 1 if row[name] and now.get(name) else None
        both = pin.accuracy is not None and now.get("accuracy") is not None
        row["d_accuracy"] = 100 * (pin.accuracy - now["accuracy"]) if both else None
        rows.append(row)
    return rows


def _file_rows(rows: pd.DataFrame) -> list[dict[str, Any]]:
    named = rows.assign(stored=rows["rate"], size=rows["weights"], used=rows["levels"])[
        [column.name for column in FILE]
    ]
    return [{str(name): value for name, value in row.items()} for row in named.to_dict("records")]


def file_table(state: ExplorerState) -> DataTable:
    """The tensors of the quantized file that is open; focused is that whose codes are shown."""
    table = DataTable(columns=list(FILE), caption="Tensors of the file", key="name")

    def show() -> None:
        found = state.inspected
        table.rows = [] if found is None else _file_rows(found.rows)
        table.caption = "Tensors of the file" if found is None else f"Tensors of {found.opened.path.name}"

    def show_focus() -> None:
        table.focused = state.file_tensor

    def take_focus(change: Any) -> None:
        if change["new"]:
            state.file_tensor = change["new"]

    show()
    show_focus()
    state.observe(lambda change: show(), ["inspected"])
    state.observe(lambda change: show_focus(), ["file_tensor"])
    table.observe(take_focus, "focused")
    return table
