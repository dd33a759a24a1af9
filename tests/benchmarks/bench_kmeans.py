"""Weighted k-means in one dimension: ours against other packages that take a weight for each value.

python -m tests.benchmarks kmeans [--full]

Each is timed from unsorted weights and sensitivities to the codebook, "KMeans.fit" to the indices of all weights too.
Its distortion is measured on the weights, over the optimum: the least of what anyone found and of dynamic programming
over bins sixteen times finer than ours.
"""

import sys
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from nbquant.kernels import dispatch
from nbquant.kernels.cpu.kmeans import kmeans_table
from nbquant.quantization.histogram import Cells, Histogram
from nbquant.quantization.kmeans import KMeans
from nbquant.quantization.optimal_kmeans import kmeans_clusters
from tests.benchmarks import options, synthetic
from tests.benchmarks.memory import peak_of, print_peak
from tests.benchmarks.turns import one_thread, take_turns

Contender = Callable[[Tensor, Tensor, int], np.ndarray]  # (w, h, k) to a codebook

FINEST_SHIFT = 12  # of the bins that the optimum is looked for on
CKWRAP_BYTES = 20  # a weight and cluster
CKWRAP_MOST = 2 << 30  # bytes
SKLEARN_MOST = 320_000_000  # weights times clusters; half a minute
BUDGET = 10.0  # seconds, for each contender
WARM = 20_000  # weights
MEMORY_OF = ("ours", "flash1dkmeans")


def ours(w: Tensor, h: Tensor, k: int) -> np.ndarray:
    """Histogram over w alone, and dynamic programming on it."""
    return kmeans_clusters(Cells.of_histogram(Histogram.of(w, h, joint=False), True, False), [k])[0].codebook


def ours_all_bins(w: Tensor, h: Tensor, k: int) -> np.ndarray:
    """The same from the histogram that serves every method."""
    return kmeans_clusters(Cells.of_histogram(Histogram.of(w, h), True, False), [k])[0].codebook


def ours_to_indices(w: Tensor, h: Tensor, k: int) -> np.ndarray:
    """The whole ``nbquant.KMeans(k).fit``: indices of all weights, counts and code too."""
    return KMeans(k).fit(w, h).codebook_of("all").value.double().numpy()


def flash1dkmeans(w: Tensor, h: Tensor, k: int) -> np.ndarray:
    from flash1dkmeans import kmeans_1d

    return kmeans_1d(w.numpy(), k, sample_weights=h.numpy(), random_state=0)[0]


def ckwrap(w: Tensor, h: Tensor, k: int) -> np.ndarray:
    from ckwrap import ckmeans

    return ckmeans(w.double().numpy(), k, weights=h.double().numpy()).centers


def sklearn(w: Tensor, h: Tensor, k: int) -> np.ndarray:
    from sklearn.cluster import KMeans

    found = KMeans(k, n_init=1, random_state=0).fit(w.numpy()[:, None], sample_weight=h.numpy())
    return found.cluster_centers_.ravel()


OURS: dict[str, Contender] = {
    "ours": ours,
    "ours, with the joint grid": ours_all_bins,
    "ours, KMeans.fit": ours_to_indices,
}
PEERS: dict[str, Contender] = {f.__name__: f for f in (flash1dkmeans, ckwrap, sklearn)}


def contenders(n: int, k: int) -> dict[str, Contender]:
    """Those that are installed, and whose time and memory are bearable."""
    found = {name: peer for name, peer in PEERS.items() if options.installed(name)}
    if "ckwrap" in found and CKWRAP_BYTES * n * k > CKWRAP_MOST:
        print(f"left out: ckwrap, which takes {CKWRAP_BYTES * n * k / 2**30:.0f} GiB here")
        del found["ckwrap"]
    if "sklearn" in found and n * k > SKLEARN_MOST:
        print("left out: sklearn, which takes minutes here")
        del found["sklearn"]
    return OURS | found


def distortion(w: Tensor, h: Tensor, codebook: np.ndarray) -> tuple[float, np.ndarray]:
    """Σh(w − c)² with the nearest codewords, and the means of their members."""
    c = np.unique(codebook.astype(np.float64))
    out = torch.empty(len(w), dtype=torch.int16)
    n, _, s0, s1, s2 = dispatch.assign(w, h, c, np.zeros(len(c)), 0.0, out).T
    used = n > 0
    return float((s2 - 2 * c * s1 + c * c * s0).sum()), s1[used] / s0[used]


def optimum(w: Tensor, h: Tensor, k: int) -> float:
    """Σh(w − c)² of the best clusters whose edges are those of fine bins, after two iterations on the weights."""
    _, sums, *_ = dispatch.histogram(w, h, FINEST_SHIFT, None)
    prefix = np.zeros((len(sums) + 1, 3))
    np.cumsum(sums[:, 1:], axis=0, out=prefix[1:])
    _, start = kmeans_table(prefix, k)
    edges = [len(sums)]
    for c in range(k, 0, -1):
        edges.append(int(start[c - 1, edges[-1]]))
    _, s0, s1, _ = np.add.reduceat(sums, edges[:0:-1]).T
    _, codebook = distortion(w, h, s1 / s0)
    return distortion(w, h, codebook)[0]


def table(w: Tensor, h: Tensor, k: int, rounds: int) -> None:
    print(f"\nN = {len(w):.2g}, k = {k}")
    runs = contenders(len(w), k)
    for run in runs.values():
        run(w[:WARM], h[:WARM], k)
    taken = take_turns({name: lambda run=run: run(w, h, k) for name, run in runs.items()}, rounds, False, BUDGET)
    cost = {name: distortion(w, h, measured.result)[0] for name, measured in taken.items()}
    fine = optimum(w, h, k)
    best = min(fine, *cost.values())
    by = "finer bins" if best == fine else min(cost, key=cost.__getitem__)
    print(f"{'':28}{'CPU ms':>10}{'÷ ours':>9}{'÷ optimum':>12}{'rounds':>8}   (optimum: {by})")
    for name, measured in taken.items():
        times = measured.ms / taken["ours"].ms
        print(f"{name:28}{measured.ms:10.1f}{times:9.1f}{cost[name] / best:12.6f}{len(measured.seconds):8}")
    print(f"{'finer bins':28}{'':>19}{fine / best:12.6f}", flush=True)


def peak_memory(name: str, n: int, k: int) -> None:
    """Print the memory of a contender."""
    run = (OURS | PEERS)[name]

    def prepare() -> Callable[[], object]:
        run(*synthetic.weights(WARM), k)
        w, h = synthetic.weights(n)
        return lambda: run(w, h, k)

    with one_thread():
        print_peak(prepare)


def memory(n: int, k: int) -> None:
    print(f"\nmost memory beyond the weights and sensitivities, N = {n:.2g}, k = {k}")
    for name in MEMORY_OF:
        if name in PEERS and not options.installed(name):
            continue
        found = peak_of("tests.benchmarks.bench_kmeans", name, n, k)
        if found is not None:
            print(f"{name:28}{found / 1e6:10.1f} MB", flush=True)


def main(argv: list[str]) -> None:
    if argv[:1] == ["--memory"]:
        peak_memory(argv[1], int(argv[2]), int(argv[3]))
        return
    chosen = options.parse(argv, __doc__)
    if chosen is None:
        return
    sizes = [1_000_000, 10_000_000] + [61_000_000] * chosen.full
    levels = (32, 256)
    if chosen.smoke:
        sizes, levels = [30_000], (4,)
    print("Laplacian weights, log-normal h (σ = 2); CPU time of one thread, medians of rounds in turn")
    with one_thread():
        w, h = synthetic.weights(sizes[-1])
        for n in sizes:
            for k in levels:
                table(w[:n], h[:n], k, chosen.rounds)
        del w, h
    memory(sizes[-1], levels[0])


if __name__ == "__main__":
    main(sys.argv[1:])
