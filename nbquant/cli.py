"""The command line: nbquant quantize | inspect | decompress | explore."""

import click


@click.group()
def main() -> None:
    """Quantize, inspect and restore neural-network weights."""
