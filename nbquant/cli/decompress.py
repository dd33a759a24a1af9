"""Restore a .nbq file to a safetensors file."""

import sys
from pathlib import Path

import click

from nbquant.cli.paths import FILE, NEW_FILE
from nbquant.cli.terminal import on_terminal, say
from nbquant.storage.decompress import decompress as decompress_file


@click.command()
@click.argument("file", type=FILE)
@click.option("-o", "--out", type=NEW_FILE, required=True, help="The .safetensors file to write, or to replace.")
def decompress(file: Path, out: Path) -> None:
    """Restore the tensors of a .nbq FILE to a safetensors file, with the names, shapes and types they had."""
    decompress_file(file, out, progress=on_terminal())
    if on_terminal():
        say(f"{out}: {out.stat().st_size:,} bytes", sys.stderr)
