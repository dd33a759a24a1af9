"""The command line: nbquant quantize | inspect | decompress | explore | app.

One module, as every command is a few lines of options and calls.
"""

import ast
import hashlib
import importlib.util
import io
import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import click
import nbformat
import pandas as pd

import nbquant as nq
from nbquant.analysis.target import QUANTITIES, split_targets
from nbquant.coding import codes
from nbquant.listed import listed
from nbquant.models.layers import layer_label
from nbquant.plain_text import plainly
from nbquant.quantization import methods
from nbquant.replacing import shortened
from nbquant.storage.decompress import decompress as decompress_file
from nbquant.storage.errors import CorruptFileError

FAILED, USAGE, DAMAGED, INTERRUPTED = 1, 2, 3, 130
MOST_STEM = 200  # bytes: file systems allow 255, and Jupyter's own copies have longer names
JUPYTER = Path(__file__).parent / "jupyter"


def _usual(option: str, said: Mapping[Any, str] | None = None) -> str:
    """List the defaults of an option, with the methods that have each."""
    found: dict[Any, list[str]] = {}
    for method in methods.METHODS:
        found.setdefault(getattr(method.make, option), []).append(method.name)
    return "; ".join(f"{(said or {}).get(value, value)} for {', '.join(names)}" for value, names in found.items())


_EXISTING = click.Path(exists=True, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_NEW_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=f"""Exit codes: 0 done, {FAILED} could not be done (the message says why), {USAGE} wrong usage, {DAMAGED}
    a damaged .nbq file, {INTERRUPTED} interrupted. Progress shows on a terminal only. For completion put
    eval "$(_NBQUANT_COMPLETE=bash_source nbquant)" into ~/.bashrc (zsh_source, fish_source: those shells).""",
)
@click.version_option(nq.__version__)
def commands() -> None:
    """Quantize, inspect and restore the weights of neural networks."""


@commands.command(short_help="Quantize a checkpoint into a .nbq file.")
@click.argument("checkpoint", type=_EXISTING)
@click.option("-o", "--out", type=_NEW_FILE, required=True, help="The .nbq file to write or replace.")
@click.option("--sensitivity", type=_EXISTING, help="Safetensors file of sensitivities h, by parameter name.")
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
    "here it works like trellis.",
)
@click.option("--ratio", type=float, help="Target: least compression ratio, that of the whole file.")
@click.option("--rate", type=float, help="Target: largest rate in bits per weight, side information included.")
@click.option("--levels", type=int, help="Target: largest number of reconstruction values.")
@click.option("--lmbda", type=float, help="Target: lambda of ecsq, trellis or feedback, loss per bit.")
@click.option("--step", type=float, help="Target: cell width of uniform, in units of the weights.")
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
    layers: tuple[str, ...],
    coding: Any,
    per_layer: bool | None,
    more: tuple[str, ...],
    plain: bool,
    pinned_zero: bool,
) -> None:
    """Quantize CHECKPOINT, a safetensors file or a folder with an index and shards, into a .nbq file.

    Give one target: --ratio, --rate or --levels, or the method's own --lmbda or --step. Tensors not chosen by --layers
    are stored unchanged. Options that are left out have the method's defaults.
    """
    known = methods.named(method)
    given: dict[str, Any] = {"ratio": ratio, "rate": rate, "levels": levels, "lmbda": lmbda, "step": step}
    given |= {"weighted": False if plain else None, "coding": coding, "per_layer": per_layer}
    given |= {"pinned_zero": True} if pinned_zero else {}
    targets, options = split_targets(known, {**given, **_parsed(more)})
    if sum(value is not None for value in targets.values()) != 1:
        names = ", ".join(f"--{name}" for name in dict.fromkeys((*QUANTITIES, known.parameter.name)))
        raise click.UsageError(f"Exactly one target of {method} is required: {names}.")
    try:
        methods.family(method, **options)(1)
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    if damping and sensitivity is None:
        raise click.UsageError("--damping is added to sensitivities: name their file with --sensitivity.")
    h = nq.load_sensitivity(sensitivity).damped(damping) if sensitivity and damping else sensitivity
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # weights left out are reported below
        selection = nq.select(checkpoint, h, list(layers) or None)
    quantized = nq.fit(
        selection,
        method,
        **{**targets, **options},
        file_of=checkpoint if ratio is not None else None,
        progress=_on_terminal(),
    )
    ledger = nq.save(quantized, out, checkpoint, progress=_on_terminal())
    if selection.left_out is not None:
        _say(f"Not quantized, stored unchanged: {selection.left_out}.", sys.stderr)
    if _on_terminal():
        before = quantized.source_bits + quantized.unselected_bits
        _say(f"{_summary(out, ledger.total, before)}\n{quantized}", sys.stderr)


@commands.command(short_help="Show what a .nbq file holds.")
@click.argument("file", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def inspect(file: Path, as_json: bool) -> None:
    """Show the contents of a .nbq FILE: how it was made, where its bytes go, and its tensors."""
    stored = nq.load(file)
    frame = stored.to_frame()
    if as_json:
        about = {
            "path": str(file),
            "size": stored.size,
            "source_size": stored.source_bits // 8,
            "compression_ratio": stored.compression_ratio,
            "recipe": stored.recipe,
            "metadata": stored.metadata,
            "ledger": dict(stored.ledger),
            "tensors": json.loads(frame.to_json(orient="records")),
        }
        _say(json.dumps(about, indent=2))
        return
    _say(_summary(stored.path, stored.ledger.total, stored.source_bits))
    _say("\n".join(f"  {name}: {_told(value)}" for name, value in stored.recipe.items() if value is not None))
    if stored.metadata:
        _say(f"  metadata: {listed(stored.metadata)}")
    _say(f"\n{stored.ledger}\n")
    _say(_table(frame.assign(layer=frame["layer"].map(layer_label))))


@commands.command(short_help="Restore a .nbq file to a safetensors file.")
@click.argument("file", type=_FILE)
@click.option("-o", "--out", type=_NEW_FILE, required=True, help="The .safetensors file to write, or to replace.")
def decompress(file: Path, out: Path) -> None:
    """Restore the tensors of a .nbq FILE to a safetensors file, with the names, shapes and types they had."""
    decompress_file(file, out, progress=_on_terminal())
    if _on_terminal():
        _say(f"{out}: {out.stat().st_size:,} bytes", sys.stderr)


@commands.command(context_settings={"ignore_unknown_options": True}, short_help="Open the explorer in JupyterLab.")
@click.option("--sensitivity", type=_EXISTING, help="Safetensors file of the checkpoint's sensitivities.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[CHECKPOINT] [JUPYTER]...")
def explore(sensitivity: Path | None, arguments: tuple[str, ...]) -> None:
    """Open the explorer in JupyterLab, on CHECKPOINT or on a bundled network.

    The notebook is created in the current folder, or opened if one of its name exists. Further
    options go to JupyterLab, for example --port=9000 or --no-browser.
    """
    # As a separate argument it would take JupyterLab's first option for the path if there is none.
    is_named = bool(arguments) and not arguments[0].startswith("-")
    checkpoint = _EXISTING(arguments[0]) if is_named else None
    jupyter = arguments[1:] if is_named else arguments
    notebook = Path(_notebook_name(checkpoint.resolve().stem if checkpoint else "lenet5-fashion"))
    if not notebook.exists():
        nbformat.write(_notebook(checkpoint, sensitivity), notebook)
        _say(f"made {notebook}", sys.stderr)
    environment = os.environ | _ours_first("JUPYTER_CONFIG_PATH")
    # As root, as in containers, JupyterLab does not start unless told to.
    as_root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", "jupyterlab", str(notebook), *as_root, *jupyter], environment)


@commands.command(short_help="Serve the explorer as a page without code.")
@click.argument("checkpoint", type=_EXISTING, required=False)
@click.option("--sensitivity", type=_EXISTING, help="Safetensors file of the checkpoint's sensitivities.")
@click.option("--model", type=click.Choice(nq.zoo.names()), help="The bundled network, where there is no CHECKPOINT.")
@click.option("--port", type=click.IntRange(1, 65535), default=8866, show_default=True, help="Or the next free one.")
@click.option("--theme", type=click.Choice(("light", "dark")), default="light", show_default=True)
@click.option("--browser/--no-browser", default=True, help="Whether to open the page.", show_default=True)
def app(
    checkpoint: Path | None, sensitivity: Path | None, model: str | None, port: int, theme: str, browser: bool
) -> None:
    """Serve the explorer as a page without code, on CHECKPOINT or on a bundled network.

    The page is served to this machine only, at an address with a token. Files are saved into the current
    folder. Each window that opens the page has its own process, which ends when the window is closed.
    """
    if checkpoint and model:
        raise click.UsageError("Either CHECKPOINT or --model can be explored, not both.")
    if sensitivity and not checkpoint:
        raise click.UsageError("--sensitivity is of a CHECKPOINT, which must be named too.")
    if importlib.util.find_spec("voila") is None:
        raise click.ClickException("the app needs Voilà, which is not installed: pip install 'nbquant[app]'")
    asked = {
        "checkpoint": checkpoint and str(checkpoint.resolve()),
        "sensitivity": sensitivity and str(sensitivity.resolve()),
        "model": model or "lenet5-fashion",
        "folder": str(Path.cwd()),
    }
    command = [
        *(sys.executable, "-P", str(JUPYTER / "app.py"), str(JUPYTER / "app.ipynb"), "--show_tracebacks=True"),
        *("--token", "--Voila.ip=127.0.0.1", f"--port={port}", "--template=nbquant", f"--theme={theme}"),
        *([] if browser else ["--no-browser"]),
    ]
    sys.stdout.flush()
    os.execve(sys.executable, command, os.environ | _ours_first("JUPYTER_PATH") | {"NBQUANT_APP": json.dumps(asked)})


def main() -> None:
    """Run the command of the arguments, and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=plainly)
    with _exit_codes():
        sys.exit(commands(standalone_mode=False, prog_name="nbquant"))


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


@contextmanager
def _exit_codes() -> Iterator[None]:
    """Report known errors in one line with an exit code; other exceptions are our bugs and keep their traceback."""
    try:
        yield
    except click.ClickException as error:
        error.show(sys.stderr)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted; nothing was written", INTERRUPTED)
    except CorruptFileError as error:
        _fail(str(error), DAMAGED)
    except OSError as error:
        # Our messages are complete; the system's name the file only beside the number.
        _fail(error.strerror if error.strerror and error.filename is None else str(error), FAILED)
    except ValueError as error:
        _fail(str(error), FAILED)
    except MemoryError:
        _fail("there is not enough memory for it: close other programs, or choose fewer layers.", FAILED)


def _say(text: str, stream: IO[str] | None = None) -> None:
    """Write a line to standard output, or another stream, in its own encoding: click takes UTF-8 for ASCII."""
    click.echo(text, file=stream or sys.stdout)


def _fail(message: str, code: int) -> None:
    _say(f"Error: {message}", sys.stderr)
    sys.exit(code)


def _on_terminal() -> bool:
    return sys.stderr.isatty()


def _summary(path: Path, bits: int, source_bits: int) -> str:
    return (
        f"{path}: {bits // 8:,} bytes, {source_bits / bits:.2f} times smaller than the {source_bits // 8:,} bytes of "
        "its tensors"
    )


def _told(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def _table(frame: pd.DataFrame) -> str:
    shown = frame.copy()
    for name in shown:
        if pd.api.types.is_integer_dtype(shown[name]):
            shown[name] = shown[name].map("{:,}".format)
        elif pd.api.types.is_float_dtype(shown[name]):
            shown[name] = shown[name].map("{:.3g}".format, na_action="ignore")
    return shown.fillna("").to_string(index=False)


def _ours_first(variable: str) -> dict[str, str]:
    """Prepend our folder to one of Jupyter's search paths."""
    return {variable: os.pathsep.join([str(JUPYTER), *filter(None, [os.environ.get(variable)])])}


def _notebook_name(stem: str) -> str:
    """Name the notebook of a checkpoint; a long name is cut, but stays unique to the checkpoint."""
    raw = stem.encode("utf-8", "surrogateescape")
    if len(raw) > MOST_STEM:
        stem = f"{shortened(stem, MOST_STEM - 9)}-{hashlib.blake2b(raw, digest_size=4).hexdigest()}"
    return f"explore-{stem}.ipynb"


def _notebook(checkpoint: Path | None, sensitivity: Path | None) -> nbformat.NotebookNode:
    if checkpoint is None:
        source = 'model, data = nq.zoo.load("lenet5-fashion")\nnq.explore(model, data)'
    else:
        given = f", sensitivity={str(sensitivity.resolve())!r}" if sensitivity else ""
        source = f"nq.explore({str(checkpoint.resolve())!r}{given})"
    cell = nbformat.v4.new_code_cell(f"import nbquant as nq\n\n{source}", id="explore")
    return nbformat.v4.new_notebook(
        cells=[cell], metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    )
