"""Runs the benchmarks: ``python -m tests.benchmarks [part of a name ...]``, all of them without a name.

A benchmark is a script ``bench_*.py`` in this folder that prints its own table. Each runs in a process of its own, so
that none inherits the memory, threads or compiled code of the one before.
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


def main(words: list[str]) -> int:
    failed = []
    for script in choose(words):
        print(f"\n--- {script.stem}", flush=True)
        started = time.perf_counter()
        ran = subprocess.run(
            [sys.executable, "-m", f"tests.benchmarks.{script.stem}"], cwd=HERE.parents[1], check=False
        )
        print(f"({script.stem}: {time.perf_counter() - started:.1f} s)", flush=True)
        if ran.returncode != 0:
            failed.append(script.stem)
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
