"""Write the explorer as one HTML page that needs no kernel."""

from pathlib import Path

import click

import nbquant as nq
from nbquant.cli.paths import EXISTING
from nbquant.cli.terminal import on_terminal, say


@click.command()
@click.argument("checkpoint", type=EXISTING, required=False)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="The page; NAME.html by default.")
@click.option("--sensitivity", type=EXISTING, help="Safetensors file of the checkpoint's sensitivities.")
@click.option("--model", type=click.Choice(nq.zoo.names()), help="The bundled network, where there is no CHECKPOINT.")
def export(checkpoint: Path | None, output: Path | None, sensitivity: Path | None, model: str | None) -> None:
    """Write the explorer of CHECKPOINT, or of a bundled network, as one HTML page.

    The page needs no kernel and no network. It holds curves and codebooks, but no weights.
    """
    if checkpoint and model:
        raise click.UsageError("Either CHECKPOINT or --model can be exported, not both.")
    if sensitivity and not checkpoint:
        raise click.UsageError("--sensitivity is of a CHECKPOINT, which must be named too.")
    name = checkpoint.stem if checkpoint else model or "lenet5-fashion"
    path = output or Path(f"{name}.html")
    if checkpoint:
        explorer = nq.explore(checkpoint, sensitivity=sensitivity)
    else:
        explorer = nq.explore(*nq.zoo.load(name), measure_at_rest=False)
    explorer.state.wait(timeout=3600)
    size = nq.export_html(explorer, path, title=f"nbquant: {name}", progress=on_terminal())
    say(f"{path}: {size:,} bytes")
