"""Open the explorer in JupyterLab."""

import hashlib
import os
import sys
from pathlib import Path

import click

from nbquant.cli.paths import EXISTING, ours_first
from nbquant.cli.terminal import say
from nbquant.replacing import shortened

MOST_STEM = 200  # bytes: file systems allow 255, and Jupyter's own copies have longer names


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--sensitivity", type=EXISTING, help="Safetensors file of the checkpoint's sensitivities.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[CHECKPOINT] [JUPYTER]...")
def explore(sensitivity: Path | None, arguments: tuple[str, ...]) -> None:
    """Open the explorer in JupyterLab, on CHECKPOINT or on a bundled network.

    The notebook is created in the current folder, or opened if one of its name exists. Further
    options go to JupyterLab, for example --port=9000 or --no-browser.
    """
    # As a separate argument it would take JupyterLab's first option for the path if there is none.
    is_named = bool(arguments) and not arguments[0].startswith("-")
    checkpoint = EXISTING(arguments[0]) if is_named else None
    jupyter = arguments[1:] if is_named else arguments
    notebook = Path(_notebook_name(checkpoint.resolve().stem if checkpoint else "lenet5-fashion"))
    if not notebook.exists():
        notebook.write_text(_notebook(checkpoint, sensitivity), encoding="utf-8")
        say(f"made {notebook}", sys.stderr)
    environment = os.environ | ours_first("JUPYTER_CONFIG_PATH")
    # As root, as in containers, JupyterLab does not start unless told to.
    as_root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", "jupyterlab", str(notebook), *as_root, *jupyter], environment)


def _notebook_name(stem: str) -> str:
    """Name the notebook of a checkpoint; a long name is cut, but stays unique to the checkpoint."""
    raw = stem.encode("utf-8", "surrogateescape")
    if len(raw) > MOST_STEM:
        stem = f"{shortened(stem, MOST_STEM - 9)}-{hashlib.blake2b(raw, digest_size=4).hexdigest()}"
    return f"explore-{stem}.ipynb"


def _notebook(checkpoint: Path | None, sensitivity: Path | None) -> str:
    import nbformat  # takes as long as the rest of this command

    if checkpoint is None:
        source = 'model, data = nq.zoo.load("lenet5-fashion")\nnq.explore(model, data)'
    else:
        given = f", sensitivity={str(sensitivity.resolve())!r}" if sensitivity else ""
        source = f"nq.explore({str(checkpoint.resolve())!r}{given})"
    cell = nbformat.v4.new_code_cell(f"import nbquant as nq\n\n{source}", id="explore")
    kernel = {"name": "python3", "display_name": "Python 3"}
    return nbformat.writes(nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel}))
