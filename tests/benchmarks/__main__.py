"""Runs the benchmarks: ``python -m tests.benchmarks [part of a name ...] [--option ...]``, all of them without a name.

A benchmark is a script ``bench_*.py`` in this folder that prints its own table. Each runs in a process of its own, so
that none inherits the memory, threads or compiled code of the one before. Options go to each as they are: ``--full``
for the largest sizes, ``--rounds 3``, ``--device cuda`` for the kernels, ``--smoke`` to see whether it runs.
"""

import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def choose(words: list[str]) -> list[Path]:
    scripts = sorted(HERE.glob("bench_*.py"))
    unknown = [word for word in words if not any(word in script.stem for script in scripts)]
    if unknown or not scripts:
        names = ", ".join(script.stem.removeprefix("bench_") for script in scripts) or "none yet"
        sys.exit(f"no benchmark is called {' or '.join(unknown) or 'anything'}; there are: {names}")
    return [script for script in scripts if not words or any(word in script.stem for word in words)]


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Names, and the options that come after them."""
    first = next((i for i, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))
    return arguments[:first], arguments[first:]


def main(arguments: list[str]) -> int:
    failed = []
    words, options = split(arguments)
    for script in choose(words):
        print(f"\n--- {script.stem}", flush=True)
        started = time.perf_counter()
        ran = subprocess.run(
            [sys.executable, "-m", f"tests.benchmarks.{script.stem}", *options], cwd=HERE.parents[1], check=False
        )
        print(f"({script.stem}: {time.perf_counter() - started:.1f} s)", flush=True)
        if ran.returncode != 0:
            failed.append(script.stem)
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
