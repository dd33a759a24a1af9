"""Serve the explorer as a page without code."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import click

import nbquant as nq
from nbquant.cli.paths import EXISTING, JUPYTER, ours_first


@click.command()
@click.argument("checkpoint", type=EXISTING, required=False)
@click.option("--sensitivity", type=EXISTING, help="Safetensors file of the checkpoint's sensitivities.")
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
    os.execve(sys.executable, command, os.environ | ours_first("JUPYTER_PATH") | {"NBQUANT_APP": json.dumps(asked)})
