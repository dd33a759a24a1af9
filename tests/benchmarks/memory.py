"""The most memory that a call takes, in a process of its own."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def print_peak(prepare: Callable[[], Callable[[], object]]) -> None:
    """Print by how many bytes a call raises the most that this process ever held; ``prepare`` returns the call."""
    run = prepare()
    before = _status("VmRSS")
    run()
    print(max(_status("VmHWM") - before, 0))


def peak_of(module: str, *arguments: object) -> int | None:
    """Run ``python -m module --memory …``, which ends with :func:`print_peak`; None where there is no /proc."""
    if not sys.platform.startswith("linux"):
        print("skipped: needs Linux's /proc")
        return None
    command = [sys.executable, "-m", module, "--memory", *map(str, arguments)]
    return int(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def _status(entry: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(entry + ":"))
