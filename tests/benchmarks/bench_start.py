"""How long the user waits at first: imports, the command line, and the explorer's first picture, each in a new process.

python -m tests.benchmarks start [--before CHECKOUT]

"first curve" is when the histogram and the chosen curve are there; "at rest" when nothing is under way any more, with
sensitivities, all curves, the bound and the exact pass. "fresh" has empty caches, of compiled kernels too; "set-up" has
the kernels that ``make explore`` compiles while it installs.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from tests.benchmarks import options

ROOT = Path(__file__).resolve().parents[2]
HERE, BEFORE = "this", "before"

TORCH = "import torch"
NBQUANT = "import nbquant"
USED = "import nbquant as nq; nq.zoo, nq.sensitivity, nq.select, nq.fit, nq.explore"
PROGRAM = "import sys; sys.argv = ['nbquant', *{0!r}]; from nbquant.cli import main; main()"
SAVE = """
import sys, torch, nbquant as nq
model = torch.nn.Linear(100, 100)
nq.save(nq.fit(nq.select(model), "uniform", rate=3), sys.argv[1], model)
"""
EXPLORER = """
import time; begun = time.perf_counter()
import nbquant as nq
from nbquant.widgets.state import ExplorerState
state = ExplorerState(*{})
def first(change):
    state.unobserve(first, "point")
    print("first curve", time.perf_counter() - begun, flush=True)
state.observe(first, "point")
assert state.wait(600) and not state.error, state.error
print("at rest", time.perf_counter() - begun, flush=True)
"""
PRECOMPILE = "import runpy; runpy.run_module('nbquant.kernels.precompile', run_name='__main__')"
EMPTIED = ("fresh", "set-up")
LENET = "nq.zoo.load('lenet5-fashion')"
TINY = "[__import__('torch').nn.Linear(20, 20)]"


def run(root: Path, caches: Path, code: str, *arguments: str, smoke: bool) -> dict[str, tuple[float, float]]:
    """Wall and CPU seconds of a process, its own and those of its children; with what it told, without CPU time."""
    environment = os.environ | {"PYTHONPATH": str(root), "NBQUANT_CACHE": str(caches / "statistics")}
    if not smoke:
        environment["NUMBA_CACHE_DIR"] = str(caches / "numba")
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=caches, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    told = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    assert process.returncode == 0, f"exit code {process.returncode}"
    found = {"": (time.perf_counter() - start, used.ru_utime + used.ru_stime)}
    for line in told.splitlines():
        name, _, seconds = line.rpartition(" ")
        if name in ("first curve", "at rest"):
            found[f", {name}"] = float(seconds), float("nan")
    return found


def main(argv: list[str]) -> None:
    chosen = options.parse(argv, __doc__)
    if chosen is None:
        return
    roots = {HERE: ROOT} | ({BEFORE: chosen.before.resolve()} if chosen.before else {})
    print(f"a new process each; seconds, medians of {chosen.rounds} in turn: wall, CPU")
    print(f"{'':34}" + "".join(f"{name:>18}" for name in roots))
    with tempfile.TemporaryDirectory() as folder:
        caches = {name: Path(folder, name) for name in roots}
        file = Path(folder, "small.nbq")
        for where in caches.values():
            where.mkdir()
        programs = {
            "import torch": TORCH,
            "import nbquant": NBQUANT,
            "and what explores": USED,
            "nbquant --help": PROGRAM.format(["--help"]),
            "nbquant --version": PROGRAM.format(["--version"]),
            "nbquant explore --help": PROGRAM.format(["explore", "--help"]),
            "nbquant inspect": PROGRAM.format(["inspect", str(file)]),
            "explorer": EXPLORER.format(TINY if chosen.smoke else LENET),
        }
        if chosen.smoke:
            programs = {what: programs[what] for what in ("import torch", "import nbquant", "explorer")}
        else:
            run(ROOT, caches[HERE], SAVE, str(file), smoke=False)
            programs["fresh explorer"] = programs["set-up explorer"] = programs["explorer"]
        ratio: dict[tuple[str, str], float] = {}
        for what, code in programs.items():
            taken: dict[str, list[dict[str, tuple[float, float]]]] = {name: [] for name in roots}
            emptied = what.startswith(EMPTIED)
            warm = 0 if chosen.smoke or emptied else 1  # what is measured has run once before
            for turn in range(chosen.rounds + warm):
                for name, root in roots.items():
                    if emptied:
                        shutil.rmtree(caches[name])
                        caches[name].mkdir()
                    if what.startswith("set-up"):
                        run(root, caches[name], PRECOMPILE, smoke=False)
                    found = run(root, caches[name], code, smoke=chosen.smoke)
                    if turn >= warm:
                        taken[name].append(found)
            for part in taken[HERE][0]:
                cells = {n: [median(t[part][i] for t in rounds) for i in range(2)] for n, rounds in taken.items()}
                print(f"{what + part:34}" + "".join(f"{w:10.2f}{c:8.2f}" for w, c in cells.values()), flush=True)
                ratio |= {(what + part, name): wall for name, (wall, _) in cells.items()}
        print("\nratios of wall time")
        over = [("import nbquant", "import torch")]
        if not chosen.smoke:
            kinds = [(kind, part) for kind in EMPTIED for part in ("first curve", "at rest")]
            over += [(f"{kind} explorer, {part}", f"explorer, {part}") for kind, part in kinds]
        for a, b in over:
            print(f"{f'{a} / {b}':64}" + "".join(f"{ratio[a, n] / ratio[b, n]:8.2f}" for n in roots))


if __name__ == "__main__":
    main(sys.argv[1:])
