"""The explorer's words and numbers, as HTML, from an :class:`ExplorerState`."""

from html import escape

from nbquant.coding.ledger import Ledger
from nbquant.models.evaluate import Evaluation
from nbquant.widgets.state import ExplorerState

STYLE = """<style>
.nbquant-explorer { color: var(--jp-ui-font-color1, inherit); font-family: var(--jp-ui-font-family, sans-serif); }
.nbquant-explorer .widget-label { color: var(--jp-ui-font-color1, inherit); }
.nbquant-readout { display: flex; flex-wrap: wrap; gap: 4px 12px; line-height: 1.35; padding: 2px 4px; }
.nbquant-readout > span { display: flex; flex-direction: column; flex: 1 1 auto; min-height: 54px;
  white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.nbquant-readout b { font-size: 12px; font-weight: normal; color: var(--jp-ui-font-color2, inherit); }
.nbquant-readout output { font-size: 16px; font-variant-numeric: tabular-nums; }
.nbquant-readout small { font-size: 12px; color: var(--jp-ui-font-color2, inherit); }
.nbquant-ledger { overflow-x: auto; }
.nbquant-ledger table { border-collapse: collapse; font-size: 12px; line-height: 1.35;
  font-variant-numeric: tabular-nums; }
.nbquant-ledger th, .nbquant-ledger td { padding: 1px 8px; text-align: right; border: none; background: none; }
.nbquant-ledger th { font-weight: normal; vertical-align: bottom; color: var(--jp-ui-font-color2, inherit); }
.nbquant-ledger tr > :first-child { text-align: left; padding-left: 4px; }
.nbquant-ledger thead th { border-bottom: 1px solid var(--jp-border-color2, rgba(127, 127, 127, 0.4)); }
.nbquant-error { border-left: 4px solid var(--jp-error-color1, #d32f2f); padding: 4px 10px; line-height: 1.4; }
</style>"""


# Room that each takes whatever its number, so that none moves when another grows [px].
WIDTHS = {
    "compression ratio": 108,
    "rate [bit/weight]": 100,
    "levels": 104,
    "predicted loss increase": 152,
    "measured accuracy": 164,
    "file": 110,
}


def readout(state: ExplorerState) -> str:
    """What the chosen point costs; by the histograms until the weights themselves were quantized."""
    point = state.point
    about, costs = ("≈ ", point) if state.exact is None else ("", state.exact)
    name = {"levels": "", "step": "step Δ = ", "lmbda": "λ = "}[point.quantizer.parameter]
    value = getattr(costs.quantizer, costs.quantizer.parameter)
    items = {
        "compression ratio": (f"{about}{costs.compression_ratio:.2f}×", ""),
        "rate [bit/weight]": (f"{about}{costs.rate:.3f}", ""),
        "levels": (str(costs.levels), f"{name}{value:.3g}" if name else ""),
        "predicted loss increase": (f"{about}{costs.predicted_loss_increase:.3g}", _weighing(state)),
        "measured accuracy": _accuracy(state),
        "file": _file(state),
    }
    cells = "".join(
        f'<span style="width: {WIDTHS[k]}px"><b>{escape(k)}</b>'
        f"<output>{escape(v)}</output><small>{escape(note)}</small></span>"
        for k, (v, note) in items.items()
    )
    return f'<div class="nbquant-readout" aria-live="polite">{cells}</div>'


def ledger_table(ledger: Ledger) -> str:
    """Where the bits go: a column a part."""
    parts = [*ledger.items(), ("total", ledger.total)]
    shares = [*ledger.shares.values(), 1.0]
    rows = {
        "bytes": [f"{bits / 8:,.0f}" for _, bits in parts],
        "share": [f"{share:.1%}" for share in shares],
    }
    head = "".join(f'<th scope="col">{escape(name).replace("_", " ")}</th>' for name, _ in parts)
    body = "".join(
        f'<tr><th scope="row">{name}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        for name, cells in rows.items()
    )
    return (
        '<div class="nbquant-ledger" tabindex="0" role="region" aria-label="Where the bits go">'
        f'<table><thead><tr><th scope="col">part</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def descriptions(state: ExplorerState) -> dict[str, str]:
    """What each figure shows, in words."""
    point, training = state.point, state.training
    heatmap = "Heat map of the Hessian diagonal of" if state.sensitivity is not None else "No sensitivities of"
    found = {
        "histogram": f"Histogram of {point.weights:,} weights with {point.levels} cluster centres.",
        "heatmap": f"{heatmap} {state.focus}.",
        "rate_distortion": f"Rate-distortion curves of {len(state.curves)} methods; chosen: "
        f"{point.compression_ratio:.2f} times smaller, predicted loss increase {point.predicted_loss_increase:.3g}.",
    }
    if training is not None:
        first, last = training.history[0].validation_loss, training.history[-1].validation_loss
        found["finetuning"] = (
            f"Loss during fine-tuning of {len(training.step_loss)} steps; on the test batches {first:.4f} before and "
            f"{last:.4f} after."
        )
    return found


def size_text(size: float) -> str:
    """A number of bytes as people say it; a kB is 1000 of them."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


def _weighing(state: ExplorerState) -> str:
    if state.exact is not None and state.finetuned is not None:
        return "before fine-tuning"
    if state.sensitivity is not None:
        return f"h: {state.sensitivity.method}"
    return "h = 1: none given" if state.lacking else "with h = 1"


def _accuracy(state: ExplorerState) -> tuple[str, str]:
    if state.measurement is None:
        return "–", ("needs model and data" if state.lacking else "")
    now, before = state.measurement.evaluation, state.measurement.original
    return f"{_said(now)} of {now.samples:,}", f"original {_said(before)}"


def _said(evaluation: Evaluation) -> str:
    return f"loss {evaluation.loss:.4f}" if evaluation.accuracy is None else f"{100 * evaluation.accuracy:.2f} %"


def _file(state: ExplorerState) -> tuple[str, str]:
    before = state.selection.source_bits + state.selection.unselected_bits
    if state.ledger is not None:
        saved = "saved" if state.file is not None else "not saved"
        return size_text(state.ledger.total / 8), f"{before / state.ledger.total:.1f}×, {saved}"
    # Names and checksums come on top, which are known a moment later.
    costs = state.point if state.kept is None else state.kept
    return f"≈ {size_text((costs.ledger.total + state.selection.unselected_bits) / 8)}", "not saved"
