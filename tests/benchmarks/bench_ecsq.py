"""ECSQ: the hull and single solves on the cells against the iteration on the weights, in one run, taking turns.

python -m tests.benchmarks ecsq [--full]
"""

import sys
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numba import njit

from nbquant.quantization.clusters import Clusters
from nbquant.quantization.histogram import Cells, Histogram
from nbquant.quantization.optimal_ecsq import ecsq_clusters, ecsq_hull, ideal_length
from tests.benchmarks import options, synthetic
from tests.benchmarks.turns import one_thread, take_turns

BLOCK = 1 << 14
HULL = 24
MOST = 40  # iterations on the weights
BRUTE_LEVELS = (64, 256)
FEW = 1_000_000  # weights; with more, numpy and 256 levels take minutes
Sums = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def sums_numpy(w: np.ndarray, h: np.ndarray, codebook: np.ndarray, price: np.ndarray) -> np.ndarray:
    """n, Σh, Σhw, Σhw² of each codeword, block by block."""
    sums = np.zeros((4, len(codebook)))
    c, p = codebook.astype(np.float32), price.astype(np.float32)
    for a, b in pairwise([*range(0, len(w), BLOCK), len(w)]):
        chosen = (0.5 * h[a:b, None] * (w[a:b, None] - c) ** 2 + p).argmin(axis=1)
        hw = h[a:b] * w[a:b].astype(np.float64)
        for row, term in zip(sums, (None, h[a:b], hw, hw * w[a:b]), strict=True):
            row += np.bincount(chosen, term, len(c))
    return sums.T


@njit(cache=True, nogil=True, fastmath=True)
def sums_compiled(w: np.ndarray, h: np.ndarray, codebook: np.ndarray, price: np.ndarray) -> np.ndarray:
    """The same in a compiled loop: blocks of weights against one codeword after the other, which is vectorized."""
    sums = np.zeros((len(codebook), 4))
    c, p = codebook.astype(np.float32), price.astype(np.float32)
    half, least, chosen = np.empty(256, np.float32), np.empty(256, np.float32), np.empty(256, np.int32)
    for a in range(0, len(w), 256):
        x, m = w[a : a + 256], h[a : a + 256]
        for i in range(len(x)):
            half[i], least[i], chosen[i] = np.float32(0.5) * m[i], np.float32(np.inf), 0
        for j in range(len(c)):
            c_j, p_j, index = c[j], p[j], np.int32(j)  # of one width all of them, or the loop is eight times slower
            for i in range(len(x)):
                d = x[i] - c_j
                cost = half[i] * d * d + p_j
                better = cost < least[i]
                chosen[i] = index if better else chosen[i]
                least[i] = cost if better else least[i]
        for i in range(len(x)):
            j, y, mass = chosen[i], np.float64(x[i]), np.float64(m[i])
            sums[j, 0] += 1
            sums[j, 1] += mass
            sums[j, 2] += mass * y
            sums[j, 3] += mass * y * y
    return sums


def iterate(
    step: Sums, w: np.ndarray, h: np.ndarray, codebook: np.ndarray, length: np.ndarray, lmbda: float, most: int
) -> tuple[float, int]:
    """The paper's algorithm on the weights: J, and the iterations it took."""
    before = np.inf
    iterations = 0
    while iterations < most:
        iterations += 1
        sums = step(w, h, codebook, lmbda * length)
        n, s0, s1, s2 = sums[sums[:, 0] > 0].T
        codebook, length = s1 / s0, ideal_length(n)
        now = float((0.5 * (s2 - codebook * s1).sum() + lmbda * n @ length) / n.sum())
        if before - now <= 1e-5 * now:
            break
        before = now
    return now, iterations


def uniform(w: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    return np.linspace(w.min(), w.max(), levels).astype(np.float64), np.full(levels, np.log2(levels))


def exact(w: np.ndarray, h: np.ndarray, found: Clusters, lmbda: float) -> float:
    """J on the weights, of a solution on the cells after two iterations on them."""
    return iterate(sums_compiled, w, h, found.codebook, ideal_length(found.counts), lmbda, 2)[0]


def solves(w: np.ndarray, h: np.ndarray, cells: Cells, lmbda: float, rounds: int) -> None:
    """One λ: cold, warm, one iteration on the weights, and all that it takes from uniform levels."""
    near, found = ecsq_clusters(cells, 0.8 * lmbda), ecsq_clusters(cells, lmbda)
    start = uniform(w, BRUTE_LEVELS[0])
    runs: dict[str, Callable[[], object]] = {
        "ours, cold": lambda: ecsq_clusters(cells, lmbda),
        "ours, warm tick": lambda: ecsq_clusters(cells, lmbda, near),
        "compiled, one iteration": lambda: iterate(sums_compiled, w, h, *start, lmbda, 1),
    }
    if len(w) <= FEW:
        runs["numpy, one iteration"] = lambda: iterate(sums_numpy, w, h, *start, lmbda, 1)
    ms = {name: measured.ms for name, measured in take_turns(runs, rounds).items()}
    j = {
        "ours, cold": exact(w, h, found, lmbda),
        "ours, warm tick": exact(w, h, ecsq_clusters(cells, lmbda, near), lmbda),
    }
    for levels in BRUTE_LEVELS if len(w) <= FEW else BRUTE_LEVELS[:1]:
        began = time.thread_time()
        cost, iterations = iterate(sums_compiled, w, h, *uniform(w, levels), lmbda, MOST)
        name = f"compiled, {iterations} from {levels}"
        ms[name], j[name] = 1e3 * (time.thread_time() - began), cost
    least = min(j.values())
    bits = float(found.counts / len(w) @ ideal_length(found.counts))
    print(f"λ = {lmbda:.3g}: {len(found.counts)} levels, {bits:.2f} bit")
    for name, t in ms.items():
        ratio = f"{j[name] / least:10.4f}" if name in j else ""
        print(f"  {name:26}{t:10.2f}{ratio}", flush=True)


def hull(cells: Cells, lmbdas: np.ndarray, rounds: int) -> None:
    measured = take_turns({"hull": lambda: ecsq_hull(cells, lmbdas)}, rounds)["hull"]
    levels = [len(c.counts) for c in measured.result]
    reach = f"{lmbdas[0]:.3g} to {lmbdas[-1]:.3g}, {min(levels)}-{max(levels)} levels"
    print(f"hull of {len(lmbdas)} λ, {reach}: {measured.ms:.0f} ms", flush=True)


def main(argv: list[str]) -> None:
    """Print times [ms of CPU] and J over the best that was found."""
    chosen = options.parse(argv, __doc__)
    if chosen is None:
        return
    n = 20_000 if chosen.smoke else 61_000_000 if chosen.full else 1_000_000
    with one_thread():
        for spread in (2.0,) if chosen.smoke else (0.0, 2.0):
            weight, sensitivity = synthetic.weights(n, spread)
            cells = Cells.of_histogram(Histogram.of(weight, sensitivity), True, True)
            scale = 0.5 * float(cells.prefix[-1, 3] / cells.prefix[-1, 0])
            print(f"\n{n} Laplacian weights, log-normal h (σ = {spread:g}): ", end="")
            print(f"{len(cells.position)} cells in {len(cells.row_sensitivity)} rows")
            print(f"  {'medians, one thread':26}{'CPU ms':>10}{'J / best':>10}")
            for share in (0.3,) if chosen.smoke else (0.3, 0.01):
                solves(weight.numpy(), sensitivity.numpy(), cells, share * scale, chosen.rounds)
            for low in (1e-4,) if chosen.smoke else (1e-8, 1e-4):
                hull(cells, np.geomspace(low, 8, HULL) * scale, chosen.rounds)


if __name__ == "__main__":
    main(sys.argv[1:])
