"""Show what a .nbq file holds."""

import json
from pathlib import Path
from typing import Any

import click
import pandas as pd

import nbquant as nq
from nbquant.cli.paths import FILE
from nbquant.cli.terminal import say, summary
from nbquant.listed import listed
from nbquant.models.layers import layer_label


@click.command()
@click.argument("file", type=FILE)
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
        say(json.dumps(about, indent=2))
        return
    say(summary(stored.path, stored.ledger.total, stored.source_bits))
    say("\n".join(f"  {name}: {_told(value)}" for name, value in stored.recipe.items() if value is not None))
    if stored.metadata:
        say(f"  metadata: {listed(stored.metadata)}")
    say(f"\n{stored.ledger}\n")
    say(_table(frame.assign(layer=frame["layer"].map(layer_label))))


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
