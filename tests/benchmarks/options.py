"""What every benchmark understands on the command line, and what it says of what it leaves out."""

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path


def parse(
    argv: Sequence[str], description: str | None, rounds: int = 5, devices: Sequence[str] = ("cpu",)
) -> argparse.Namespace | None:
    """Options, each an attribute; None, and a line that says so, on another device.

    Args:
        argv: Arguments after the program's name.
        description: The module's docstring.
        rounds: Measurements of each row, unless ``--rounds`` says how many; one with ``--smoke``.
        devices: Where the benchmark can run.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="up to 6.1·10⁷ weights and more, where size matters")
    parser.add_argument("--smoke", action="store_true", help="only see whether it runs: tiny sizes, one round")
    parser.add_argument("--rounds", type=int, help=f"measurements of each row (default {rounds})")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda: the kernels")
    parser.add_argument("--before", type=Path, help="a checkout of an earlier version, where it is measured as well")
    options = parser.parse_args(argv)
    if options.device not in devices:
        print(f"skipped: measures nothing on {options.device}")
        return None
    options.rounds = options.rounds or (1 if options.smoke else rounds)
    return options


def installed(module: str) -> bool:
    """Whether a peer can be imported; says so if it cannot."""
    if find_spec(module) is not None:
        return True
    print(f"skipped: {module} is not installed (pip install -e '.[bench]')")
    return False
