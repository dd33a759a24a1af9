"""Paths as arguments of commands, and the folders of Jupyter's settings."""

import os
from pathlib import Path

import click

EXISTING = click.Path(exists=True, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
NEW_FILE = click.Path(dir_okay=False, path_type=Path)
JUPYTER = Path(__file__).parents[1] / "jupyter"


def ours_first(variable: str) -> dict[str, str]:
    """Prepend our folder to one of Jupyter's search paths."""
    return {variable: os.pathsep.join([str(JUPYTER), *filter(None, [os.environ.get(variable)])])}
