"""Put the results of an :class:`ExplorerState` into read-outs and captions."""

from typing import Any

from nbquant.coding import codes
from nbquant.coding.ledger import Ledger
from nbquant.models.evaluate import Evaluation
from nbquant.models.layers import layers_label
from nbquant.quantization import methods
from nbquant.quantization.accuracy_loss import AccuracyLoss
from nbquant.sensitivity import estimators
from nbquant.views.palette import method_style
from nbquant.widgets.jobs.compare import PinComparison
from nbquant.widgets.state import ExplorerState


def facts(state: ExplorerState) -> list[dict[str, str]]:
    """Read-outs beside those of the operating point: label, value, note."""
    accuracy, original = _accuracy(state)
    size, against = _file(state)
    found = [
        {
            "label": "measured loss" if _has_loss_only(state) else "measured accuracy",
            "value": accuracy,
            "note": original,
        },
        *(_divergence(state) if state.found is None else _searched(state.found)),
        {"label": "file", "value": size, "note": against},
    ]
    left = state.selection.left_out
    if left is not None:
        kept = f"{100 * left.share:.1f} % of all weights"
        found.append({"label": "not quantized", "value": kept, "note": f"{', '.join(left.dtypes)}, stay as they are"})
    return found


def predicted_loss(state: ExplorerState) -> float:
    """Predicted loss increase of what is shown [loss]; of fine-tuned values, which it does not hold for, before."""
    assert state.point is not None
    if state.by_hand is not None or state.exact is None:
        return (state.by_hand or state.point).predicted_loss_increase
    return state.exact.predicted_loss_increase


def newest_ledger(state: ExplorerState) -> Ledger | None:
    """Of the file that would be saved; until it is known, of what would be in it beside names and checksums."""
    if state.ledger is not None and state.by_hand is None:
        return state.ledger
    costs: Any = state.by_hand or (state.point if state.kept is None else state.kept)
    return None if costs is None else costs.ledger + Ledger(unquantized=state.selection.unselected_bits)


def note(state: ExplorerState) -> str:
    """What the predicted loss increase rests on."""
    if state.by_hand is not None and state.point is not None:
        now, before = state.by_hand.predicted_loss_increase, state.point.predicted_loss_increase
        return f"by hand: {now / before - 1:+.2%} loss" if before > 0 else "by hand"
    if state.exact is not None and state.finetuned is not None:
        return "before fine-tuning"
    if state.point is not None and methods.of(state.point.quantizer).needs_calibration:
        return "by the diagonal alone: measure"
    if state.sensitivity is not None:
        return f"h: {_estimator(state.sensitivity.method)}"
    return "h = 1: none given" if state.lacking else "with h = 1"


def settings_text(state: ExplorerState) -> str:
    """Settings of the point that is shown; "" if there is none."""
    point = state.point
    if point is None:
        return ""
    costs = point if state.kept is None else state.kept
    q = point.quantizer
    code = codes.named(q.coding).title
    weighted = q.weighted and state.sensitivity is not None
    levels = f"{costs.levels} level{'s' * (costs.levels != 1)}"
    said = f"{method_style(q.method, weighted).label}, {levels}, {code}"
    return f"{said}, per layer" if q.per_layer else said


def summary(state: ExplorerState) -> str:
    """Settings and what came of them, in a line; "" if there is no point."""
    if state.point is None:
        return ""
    costs = state.point if state.kept is None else state.kept
    measured = "" if state.measurement is None else f", {_accuracy(state)[0]}"
    return (
        f"{settings_text(state)}: {costs.compression_ratio:.2f}×, {costs.rate:.3f} bit/weight, predicted loss "
        f"+{predicted_loss(state):.3g}{measured}"
    )


def caption(state: ExplorerState) -> str:
    """The summary with the layers; "" if there is no point."""
    return f"{summary(state)}. {layers_label(state.selection.layers)}" if state.point is not None else ""


def outcome(state: ExplorerState) -> str:
    """What was pruned and saved, in words."""
    said = []
    if state.pruned is not None:
        said.append(f"Pruned to a density of {state.pruned.density:.3g}.")
    if state.saved is not None:
        said.append(f"Saved {state.saved.path}: {state.saved.size:,} bytes ({size_text(state.saved.size)}).")
    return " ".join(said)


def size_text(size: float) -> str:
    """A number of bytes as people say it; a kB is 1000 of them."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


def versus(state: ExplorerState) -> list[dict[str, str]]:
    """The point now against the pin that is compared: label, value, note; empty without one."""
    if state.point is None or not 0 <= state.compared < len(state.pins):
        return []
    pin, found = state.pins[state.compared], state.comparison
    costs = state.point if state.kept is None else state.kept
    ledger = newest_ledger(state)
    bits = 0 if ledger is None else ledger.total
    loss = predicted_loss(state)
    rows = [
        {
            "label": "bytes",
            "value": _signed(f"{(bits - pin.bits) / 8:+,.0f}"),
            "note": _signed(f"{bits / pin.bits - 1:+.2%}") if pin.bits else "",
        },
        {
            "label": "predicted loss",
            "value": _signed(f"{loss - pin.predicted_loss:+.3g}"),
            "note": _signed(f"{loss / pin.predicted_loss - 1:+.1%}") if pin.predicted_loss > 0 else "",
        },
        {
            "label": "ratio",
            "value": _signed(f"{costs.compression_ratio - pin.ratio:+.2f}") + "×",
            "note": f"{costs.compression_ratio:.2f}× against {pin.ratio:.2f}×",
        },
    ]
    return [*_measured_difference(found), *rows]


def _measured_difference(found: PinComparison | None) -> list[dict[str, str]]:
    """Difference that was measured on the same samples; nothing before it is."""
    if found is None or found.evaluation is None:
        return []
    now = found.evaluation
    beside, before = now.comparison, now.reference
    first = " (the first)" * found.partial
    if beside is None or beside.accuracy_change is None or beside.accuracy_error is None:
        if before is None:
            return []
        note = f"{now.loss:.4f} against {before.loss:.4f}, {now.samples:,} samples{first}"
        return [{"label": "measured loss", "value": _signed(f"{now.loss - before.loss:+.3g}"), "note": note}]
    change, error = 100 * beside.accuracy_change, 100 * beside.accuracy_error
    note = f"the same {now.labels:,} samples{first}, {100 * beside.agreement:.1f} % predicted alike"
    return [{"label": "accuracy", "value": f"{_signed(f'{change:+.2f}')} ± {error:.2f} points", "note": note}]


def _signed(text: str) -> str:
    """A number with a minus as it is typeset."""
    return text.replace("-", "−")


def _estimator(name: str) -> str:
    """Label of an estimator; sensitivities that were given may come from one that is not ours."""
    return next((e.label for e in estimators.ESTIMATORS if e.name == name), name)


def _accuracy(state: ExplorerState) -> tuple[str, str]:
    if state.measurement is None:
        return "–", ("needs model and data" if state.lacking else "")
    now, before = state.measurement.evaluation, state.measurement.original
    beside = now.comparison
    error = "" if beside is None or beside.accuracy_error is None else f" ± {100 * beside.accuracy_error:.2f}"
    change = ""
    if beside is not None and beside.accuracy_change is not None:
        change = _signed(f", {100 * beside.accuracy_change:+.2f}{error} points")
    there = " there" * state.measurement.partial
    return f"{_said(now)} of {now.labels or now.samples:,}", f"original {_said(before)}{there}{change}"


def _divergence(state: ExplorerState) -> list[dict[str, str]]:
    """How far predictions are from the original's; nothing before it is measured."""
    beside = None if state.measurement is None else state.measurement.evaluation.comparison
    if beside is None:
        return []
    note = f"99 % below {beside.kl_99:.3g}, {100 * beside.agreement:.1f} % predicted alike"
    return [{"label": "KL divergence from original", "value": f"{beside.kl_mean:.3g} nat", "note": note}]


def _searched(found: AccuracyLoss) -> list[dict[str, str]]:
    """What a search for an accuracy found, and how sure it is."""
    sure = f"{found.confidence:.0%}" if found.confidence < 0.995 else "over 99%"
    note = f"at most {found.at_most:g}: {sure} sure, {found.labels:,} labels"
    return [
        {"label": "accuracy lost", "value": f"{_signed(f'{found.lost:.2f}')} ± {found.error:.2f} points", "note": note}
    ]


def _has_loss_only(state: ExplorerState) -> bool:
    """Whether it was measured and does not classify."""
    return state.measurement is not None and state.measurement.evaluation.accuracy is None


def _said(evaluation: Evaluation) -> str:
    if evaluation.accuracy is None:
        return f"{evaluation.loss:.4f}"
    bits = evaluation.bits_per_label
    more = f", {bits:.3f} bit/label" if evaluation.is_sequence and bits is not None else ""
    return f"{100 * evaluation.accuracy:.2f} %{more}"


def _file(state: ExplorerState) -> tuple[str, str]:
    ledger = newest_ledger(state)
    if ledger is None:
        return "–", ""
    before = state.selection.source_bits + state.selection.unselected_bits
    known = state.ledger is not None and state.by_hand is None
    saved = "saved" if state.file is not None else "not saved"
    about = "" if known else "≈ "  # names and checksums come on top, which are known a moment later
    return f"{about}{size_text(ledger.total / 8)}", f"{before / max(ledger.total, 1):.1f}×, {saved}"
