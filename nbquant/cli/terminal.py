"""What the commands print."""

import sys
from pathlib import Path
from typing import IO

import click


def say(text: str, stream: IO[str] | None = None) -> None:
    """Write a line to standard output, or another stream, in its own encoding: click takes UTF-8 for ASCII."""
    click.echo(text, file=stream or sys.stdout)


def on_terminal() -> bool:
    """Whether someone watches, who wants progress and a summary."""
    return sys.stderr.isatty()


def summary(path: Path, bits: int, source_bits: int) -> str:
    """Tell the size of a file beside that of its tensors."""
    return (
        f"{path}: {bits // 8:,} bytes, {source_bits / bits:.2f} times smaller than the {source_bits // 8:,} bytes of "
        "its tensors"
    )
