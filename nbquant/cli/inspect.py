"""Show what a quantized file holds."""

import json
from pathlib import Path
from typing import Any

import click
import pandas as pd

import nbquant as nq
from nbquant.cli.paths import EXISTING, FILE
from nbquant.cli.terminal import on_terminal, say, summary
from nbquant.formats import packed_files
from nbquant.listed import listed
from nbquant.models.layers import layer_label

_SHOWN = {
    "name": "tensor",
    "format": "format",
    "weights": "weights",
    "rate": "bit/weight",
    "entropy": "entropy",
    "levels": "levels",
    "zeros": "zeros",
    "zeros_lost": "zeros lost",
    "signs_flipped": "signs flipped",
    "relative_error": "relative error",
    "bound_rate": "bound",
    "bits_wasted": "wasted",
    "decibels_lost": "dB lost",
    "ecsq_rate": "ECSQ",
}
"""Columns of another library's file, and their headings."""


@click.command()
@click.argument("file", type=EXISTING)
@click.option("--original", type=EXISTING, help="Checkpoint before quantization, to show what was lost.")
@click.option("--sensitivity", type=FILE, help="File of sensitivities (Hessian diagonal), to weigh what was lost.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def inspect(file: Path, original: Path | None, sensitivity: Path | None, as_json: bool) -> None:
    """Show what a quantized FILE holds: .nbq, .gguf, .onnx, .mlpackage, or .safetensors or its folder."""
    if packed_files.is_packed(file):
        frame = nq.inspect(file, original, sensitivity, progress=on_terminal())
        say(_as_json(file, frame) if as_json else _told_packed(file, frame))
        return
    if original is not None or sensitivity is not None:
        raise click.UsageError("a .nbq file tells its loss itself: leave --original and --sensitivity out.")
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


def _as_json(file: Path, frame: pd.DataFrame) -> str:
    about = {"path": str(file), "size": _size(file, frame), "tensors": json.loads(frame.to_json(orient="records"))}
    return json.dumps(about, indent=2)


def _size(file: Path, frame: pd.DataFrame) -> int:
    """Bytes of a file, or of the tensors of a checkpoint of several."""
    return file.stat().st_size if file.suffix != ".json" and file.is_file() else int(frame["bits"].sum()) // 8


def _told_packed(file: Path, frame: pd.DataFrame) -> str:
    weights, bits = int(frame["weights"].sum()), int(frame["bits"].sum())
    quantized = frame[frame["entropy"].notna()]
    used = (quantized["entropy"] * quantized["weights"]).sum() / max(quantized["weights"].sum(), 1)
    stored = quantized["bits"].sum() / max(quantized["weights"].sum(), 1)
    head = f"{file}: {_size(file, frame):,} bytes, {weights:,} weights, {bits / weights:.3g} bit/weight"
    if len(quantized):
        head += f"\n  in block formats {stored:.3f} bit/weight are stored, of which {used:.3f} carry information"
    known = [name for name in _SHOWN if name in frame and frame[name].notna().any()]
    return f"{head}\n\n{_table(frame[known].rename(columns=_SHOWN))}"


def _told(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def _table(frame: pd.DataFrame) -> str:
    shown = frame.copy()
    for name in shown:
        if pd.api.types.is_integer_dtype(shown[name]):
            shown[name] = shown[name].map("{:,}".format, na_action="ignore")
        elif pd.api.types.is_float_dtype(shown[name]):
            shown[name] = shown[name].map("{:.3g}".format, na_action="ignore")
    return shown.astype("object").fillna("").to_string(index=False)
