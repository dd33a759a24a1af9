"""Quantize a checkpoint into a .nbq file."""

import ast
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

import nbquant as nq
from nbquant.analysis.target import QUANTITIES, split_targets
from nbquant.cli.evaluation import evaluation_of
from nbquant.cli.paths import EXISTING, NEW_FILE
from nbquant.cli.terminal import on_terminal, say, summary
from nbquant.coding import codes
from nbquant.quantization import methods


def _usual(option: str, said: Mapping[Any, str] | None = None) -> str:
    """List the defaults of an option, with the methods that have each."""
    found: dict[Any, list[str]] = {}
    for method in methods.METHODS:
        found.setdefault(getattr(method.make, option), []).append(method.name)
    return "; ".join(f"{(said or {}).get(value, value)} for {', '.join(names)}" for value, names in found.items())


@click.command()
@click.argument("checkpoint", type=EXISTING)
@click.option("-o", "--out", type=NEW_FILE, required=True, help="The .nbq file to write or replace.")
@click.option("--sensitivity", type=EXISTING, help="Safetensors file of sensitivities h, by parameter name.")
@click.option(
    "--damping",
    type=click.FloatRange(min=0),
    default=0.0,
    help="Fraction of the mean h that is added to each h.",
    show_default=True,
)
@click.option(
    "--method",
    type=click.Choice(methods.names()),
    default=methods.DEFAULT.name,
    show_default=True,
    help="trellis and feedback take longer and give smaller files. A checkpoint has no data to calibrate feedback: "
    "here it works like trellis. blocks chooses among formats of other libraries for each layer: the usual ones, or "
    "those of --option formats=q4_k,q6_k; with one, any --lmbda will do.",
)
@click.option("--ratio", type=float, help="Target: least compression ratio, that of the whole file.")
@click.option("--rate", type=float, help="Target: largest rate in bits per weight, side information included.")
@click.option("--levels", type=int, help="Target: largest number of reconstruction values.")
@click.option("--lmbda", type=float, help="Target: lambda of ecsq, trellis or feedback, loss per bit.")
@click.option("--step", type=float, help="Target: cell width of uniform, in units of the weights.")
@click.option(
    "--accuracy-loss",
    type=float,
    help="Target: percentage points of accuracy that may be lost, measured by --evaluate.",
)
@click.option(
    "--evaluate",
    metavar="WHAT",
    help="What measures --accuracy-loss: a bundled network, such as lenet5-fashion; or MODULE:NAME or FILE.py:NAME "
    "of a (model, batches) or a function of a quantized result, which is run.",
)
@click.option("--layers", metavar="GLOB", multiple=True, help="Layers to quantize: a name or glob; repeatable.")
@click.option("--coding", type=click.Choice(codes.names()), help=f"Code of the indices.  [default: {_usual('coding')}]")
@click.option(
    "--per-layer/--joint",
    default=None,
    help=f"A codebook for each layer, or one for all.  [default: {_usual('per_layer', {True: 'each', False: 'one'})}]",
)
@click.option(
    "--option",
    "more",
    metavar="NAME=VALUE",
    multiple=True,
    help="Any other option of the method, such as steps=joint or damping=0.02; repeatable.",
)
@click.option("--plain", is_flag=True, help="Ignore sensitivities: all weights count the same.")
@click.option("--pinned-zero", is_flag=True, help="Keep one level at exactly zero (kmeans).")
def quantize(
    checkpoint: Path,
    out: Path,
    sensitivity: Path | None,
    damping: float,
    method: str,
    ratio: float | None,
    rate: float | None,
    levels: int | None,
    lmbda: float | None,
    step: float | None,
    accuracy_loss: float | None,
    evaluate: str | None,
    layers: tuple[str, ...],
    coding: Any,
    per_layer: bool | None,
    more: tuple[str, ...],
    plain: bool,
    pinned_zero: bool,
) -> None:
    """Quantize CHECKPOINT, a safetensors file or a folder with an index and shards, into a .nbq file.

    Give one target: --ratio, --rate, --levels or --accuracy-loss, or the method's own --lmbda or --step. Tensors not
    chosen by --layers are stored unchanged. Options that are left out have the method's defaults.
    """
    known = methods.named(method)
    given: dict[str, Any] = {"ratio": ratio, "rate": rate, "levels": levels, "lmbda": lmbda, "step": step}
    given |= {"weighted": False if plain else None, "coding": coding, "per_layer": per_layer}
    given |= {"pinned_zero": True} if pinned_zero else {}
    targets, options = split_targets(known, {**given, **_parsed(more)})
    targets["accuracy_loss"] = accuracy_loss
    if sum(value is not None for value in targets.values()) != 1:
        possible = (*QUANTITIES, known.parameter.name, "accuracy-loss")
        names = ", ".join(f"--{name}" for name in dict.fromkeys(possible))
        raise click.UsageError(f"Exactly one target of {method} is required: {names}.")
    try:
        methods.family(method, **options)(1)
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    if damping and sensitivity is None:
        raise click.UsageError("--damping is added to sensitivities: name their file with --sensitivity.")
    if (accuracy_loss is None) != (evaluate is None):
        raise click.UsageError("--accuracy-loss and --evaluate belong together: give both, or neither.")
    measured = None if evaluate is None else evaluation_of(evaluate)
    h = nq.load_sensitivity(sensitivity).damped(damping) if sensitivity and damping else sensitivity
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # weights left out are reported below
        selection = nq.select(checkpoint, h, list(layers) or None)
    quantized = nq.fit(
        selection,
        method,
        **{**targets, **options},
        evaluate=measured,
        file_of=checkpoint if ratio is not None else None,
        progress=on_terminal(),
    )
    ledger = nq.save(quantized, out, checkpoint, progress=on_terminal())
    if quantized.accuracy is not None:
        say(f"{quantized.accuracy}", sys.stderr)
    if selection.left_out is not None:
        say(f"Not quantized, stored unchanged: {selection.left_out}.", sys.stderr)
    if on_terminal():
        before = quantized.source_bits + quantized.unselected_bits
        say(f"{summary(out, ledger.total, before)}\n{quantized}", sys.stderr)


_PYTHON = {"true": "True", "yes": "True", "false": "False", "no": "False", "none": "None"}


def _parsed(options: tuple[str, ...]) -> dict[str, Any]:
    """Parse options by name; values are numbers, True, False or None, and otherwise text."""
    found: dict[str, Any] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            raise click.UsageError(f"--option must be NAME=VALUE, but is {option!r}.")
        try:
            found[name] = ast.literal_eval(_PYTHON.get(value.lower(), value))
        except (ValueError, SyntaxError):
            found[name] = value
    return found
