"""The context code: levels a second of CPU time of one thread, on Laplacian levels whose sizes differ by row.

python -m tests.benchmarks context [--before CHECKOUT]

From indices to a stream and back, and of that the kernel alone. An earlier version is measured in turn, each in a
process of its own; its streams must be the same.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.benchmarks import options

ROOT = Path(__file__).resolve().parents[2]
SHAPES = ((1000, 1000), (4000, 1000))
BITS = (0.4, 1.5, 3.0)

MEASURE = """
import hashlib, json, sys, time
import numpy as np
from nbquant.coding import context
from nbquant.coding.levels import Alphabet
from nbquant.coding.trellis import integers_of

def seconds(run, rounds=3):
    taken = []
    for _ in range(rounds):
        started = time.thread_time()
        result = run()
        taken.append(time.thread_time() - started)
    return min(taken), result

found = {}
for path in sys.argv[1:]:
    level = np.load(path)
    for dependent in (False, True):
        integer = integers_of(level, *level.shape) if dependent else level
        alphabet = Alphabet(np.unique(integer), False, dependent)
        index = np.searchsorted(alphabet.integer, integer).astype(np.int16).reshape(-1)
        seconds(lambda: alphabet.decode(alphabet.encode(index, *level.shape), *level.shape), 1)
        encoding, data = seconds(lambda: alphabet.encode(index, *level.shape))
        decoding, back = seconds(lambda: alphabet.decode(data, *level.shape))
        assert np.array_equal(back, index)
        kernel = seconds(lambda: context.encode(level, dependent))[0]
        reading = seconds(lambda: context.decode(data, *level.shape, dependent))[0]
        digest = hashlib.sha256(data).hexdigest()
        found[f"{path} {dependent}"] = [encoding, decoding, kernel, reading, 8 * len(data) / level.size, digest]
print(json.dumps(found))
"""


def laplacian(rows: int, cols: int, bits: float) -> np.ndarray:
    """Levels of about this entropy; the sizes of rows are log-normal (σ = 0.3)."""
    generator = np.random.default_rng(0)
    base = generator.laplace(0, 1, (rows, cols)) * np.exp(generator.normal(0, 0.3, (rows, 1)))
    low, high = 0.01, 100.0
    for _ in range(30):
        scale = (low * high) ** 0.5
        share = np.unique(np.rint(base[:200] * scale), return_counts=True)[1] / base[:200].size
        low, high = (scale, high) if -(share @ np.log2(share)) < bits else (low, scale)
    return np.rint(base * scale).astype(np.int64)


def main(argv: list[str]) -> None:
    chosen = options.parse(argv, __doc__, rounds=2)
    if chosen is None:
        return
    roots = {"this": ROOT} | ({"before": chosen.before.resolve()} if chosen.before else {})
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for rows, cols in ((60, 40),) if chosen.smoke else SHAPES:
            for bits in BITS:
                path = Path(folder, f"{rows} × {cols}, {bits} bit.npy")
                np.save(path, laplacian(rows, cols, bits))
                paths[str(path)] = f"{rows} × {cols}"
        best: dict[str, dict[str, np.ndarray]] = {name: {} for name in roots}
        for _ in range(chosen.rounds):
            for name, root in roots.items():
                done = subprocess.run(
                    [sys.executable, "-c", MEASURE, *paths],
                    env=os.environ | {"PYTHONPATH": str(root)},
                    cwd=folder, capture_output=True, text=True, check=True,
                )  # fmt: skip
                for row, (*numbers, digest) in json.loads(done.stdout).items():
                    known = best[name].setdefault(f"{row} {digest}", np.full(5, np.inf))
                    np.minimum(known, numbers, out=known)
        assert len({tuple(rows) for rows in best.values()}) == 1, "streams differ"
    print(
        f"M levels/s of CPU time of one thread, best of {3 * chosen.rounds}; in brackets the kernel alone, with checks"
    )
    print(f"{'':30}" + "".join(f"{name + ': encode':>20}{'decode':>16}" for name in roots))
    for row in best["this"]:
        path, dependent, _ = row.rsplit(" ", 2)
        title = f"{paths[path]}, {best['this'][row][4]:.2f} bit{', paths' if dependent == 'True' else ''}"
        size = np.prod([int(part) for part in paths[path].split(" × ")]) / 1e6
        cells = ""
        for name in roots:
            e, d, ke, kd = size / best[name][row][:4]
            cells += f"{e:12.1f} ({ke:5.1f}){d:8.1f} ({kd:5.1f})"
        print(f"{title:30}{cells}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
