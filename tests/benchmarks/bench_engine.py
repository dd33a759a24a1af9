"""What the explorer waits for: opening, sums of layers, curves, slider ticks, and the exact pass; at several sizes.

python -m tests.benchmarks engine [--full]

Floors are one read of (w, h) and one pass that makes the histogram over w.
"""

import sys
from collections.abc import Callable
from itertools import cycle

import numpy as np
import torch
from numba import njit
from torch import Tensor

from nbquant.analysis.curves import curves, tabulated_pairs
from nbquant.analysis.statistics import Statistics
from nbquant.analysis.tabulated import curve, solve
from nbquant.analysis.target import Target
from nbquant.kernels import dispatch
from nbquant.kernels.keys import MARGINAL_SHIFT
from nbquant.quantization.clustering import WHOLE, quantize_clusters
from nbquant.quantization.histogram import Histogram
from nbquant.quantization.kmeans import KMeans
from nbquant.quantization.method import Family
from nbquant.quantization.methods import family, tabulated
from nbquant.quantization.optimal_ecsq import ecsq_hull
from nbquant.quantization.selection import Selection
from nbquant.quantization.tensor import SelectedTensor
from tests.benchmarks import options, synthetic
from tests.benchmarks.turns import one_thread, take_turns

LEVELS = 32
LAYERS = 60
LAYER_WEIGHTS = 200_000
HULL = 24
TICKS = 40
RATIOS = (6.0, 14.0)  # that the slider moves between


@njit(cache=True, nogil=True, fastmath=True)
def read(w: np.ndarray, h: np.ndarray) -> float:
    """One pass over both; ``fastmath`` lets it add in many lanes, so that memory is all it waits for."""
    a, b = np.float32(0), np.float32(0)
    for i in range(len(w)):
        a += w[i]
        b += h[i]
    return a + b


def one_layer(w: Tensor, h: Tensor) -> Selection:
    return Selection((SelectedTensor("weight", "layer", w, h),))


def floors(n: int, rounds: int) -> None:
    """Passes over the weights, as multiples of one read."""
    w, h = synthetic.weights(n)
    a, b = w.numpy(), h.numpy()
    selection = one_layer(w, h)
    statistics = Statistics.of(selection)
    quantizer = KMeans(LEVELS)
    (cells,) = statistics.cells(True, False, False).values()
    clusters = quantizer.clusters(cells)
    out = torch.empty(n, dtype=torch.int8)
    price = np.zeros(len(clusters.codebook))
    runs: dict[str, Callable[[], object]] = {
        "one read of (w, h)": lambda: read(a, b),
        "histogram over w": lambda: dispatch.histogram(w, h, MARGINAL_SHIFT, None),
        "opening: and over (w, h)": lambda: Histogram.of(w, h),
        "opening again, unchanged": lambda: Statistics.of(selection),
        f"assign, k-means {LEVELS}": lambda: dispatch.assign(w, h, clusters.codebook, price, 0.0, out),
        f"exact pass, k-means {LEVELS}": lambda: quantize_clusters(
            quantizer, selection, start={WHOLE: clusters}, zeros=statistics.zeros, histograms=statistics.undamped(False)
        ),
    }
    taken = take_turns(runs, rounds)
    first, second = (taken[name].ms for name in list(runs)[:2])
    print(f"\nN = {n:.2g}\n{'':28}{'CPU ms':>10}{'÷ read':>9}{'÷ histogram':>13}")
    for name, measured in taken.items():
        print(f"{name:28}{measured.ms:10.2f}{measured.ms / first:9.1f}{measured.ms / second:13.2f}", flush=True)


def fresh(statistics: Statistics) -> Statistics:
    """The same, with no curve known."""
    return Statistics(statistics.tensors)


def live(sizes: list[int], ticks: int, rounds: int) -> None:
    """What must not depend on the number of weights: curves, hull, ticks."""
    columns: list[dict[str, tuple[float, float]]] = []
    for n in sizes:
        statistics = Statistics.of(one_layer(*synthetic.weights(n)))
        (cells,) = statistics.cells(True, True, False).values()
        lmbdas = np.geomspace(8, 1e-8, HULL) * 0.5 * cells.prefix[-1, 3] / cells.prefix[-1, 0]
        ready: dict[str, Callable[[], object]] = {
            f"all {len(tabulated_pairs())} curves": lambda known=statistics: curves(fresh(known), progress=False),
            f"ECSQ hull of {HULL} λ": lambda cells=cells, lmbdas=lmbdas: ecsq_hull(cells, lmbdas),
        }
        column = {name: (m.ms, m.most_ms) for name, m in take_turns(ready, rounds).items()}
        moves = {f"tick, {m.name}": tick(m.family(), statistics, ticks) for m in tabulated()}
        moves["tick, kmeans, k"] = tick(family("kmeans"), statistics, ticks, "levels", (2, 200))
        columns.append(column | {name: (m.ms, m.most_ms) for name, m in take_turns(moves, ticks).items()})
    print(f"\nCPU ms, median and most; {ticks} ticks")
    print(f"{'':28}" + "".join(f"{f'N = {n:.0e}':>20}" for n in sizes))
    for name in columns[0]:
        print(f"{name:28}" + "".join(f"{c[name][0]:12.2f}{c[name][1]:8.2f}" for c in columns), flush=True)


def tick(
    method: Family, statistics: Statistics, ticks: int, target: str = "ratio", between: tuple[float, float] = RATIOS
) -> Callable[[], object]:
    """A slider that goes to another place with each call."""
    points = curve(method, statistics)
    values = np.linspace(*between, ticks)
    if target == "levels":
        values = np.rint(values)
    places = cycle(np.random.default_rng(0).permutation(values).tolist())
    return lambda: solve(Target(target, next(places)), points, statistics)  # type: ignore[arg-type]


def layers(weights: int, toggles: int) -> None:
    """One layer leaves or joins: what is known of all others must not be computed again."""
    w, h = synthetic.weights(LAYERS * weights)
    scales = np.geomspace(0.3, 3, LAYERS)
    selection = Selection(
        tuple(
            SelectedTensor(f"{i}.weight", str(i), scale * a, b)
            for i, (scale, a, b) in enumerate(zip(scales, w.split(weights), h.split(weights), strict=True))
        )
    )
    statistics = Statistics.of(selection)
    names = list(selection.layers)
    statistics.cells(True, True, False)
    chosen, order = set(names), cycle(np.random.default_rng(0).permutation(names).tolist())

    def toggle() -> None:
        chosen.symmetric_difference_update({next(order)})
        part = statistics.part(chosen)
        assert len(part.histogram)
        part.cells(True, False, False)
        part.cells(True, True, False)

    taken = take_turns({"a layer leaves or joins": toggle}, toggles)["a layer leaves or joins"]
    print(f"\n{LAYERS} layers of {weights} weights, {toggles} toggles: CPU ms, median and most")
    print(f"{'a layer leaves or joins':28}{taken.ms:12.2f}{taken.most_ms:8.2f}", flush=True)


def main(argv: list[str]) -> None:
    chosen = options.parse(argv, __doc__)
    if chosen is None:
        return
    large, sizes = 10_000_000, [100_000, 10_000_000]
    if chosen.full:
        large, sizes = 61_000_000, [*sizes, 100_000_000]
    if chosen.smoke:
        large, sizes = 300_000, [20_000]
    print("Laplacian weights, log-normal h (σ = 2); CPU time of one thread, medians of rounds in turn")
    with one_thread():
        floors(large, chosen.rounds)
        live(sizes, 2 if chosen.smoke else TICKS, chosen.rounds)
        layers(1_000 if chosen.smoke else LAYER_WEIGHTS, 2 if chosen.smoke else TICKS)


if __name__ == "__main__":
    main(sys.argv[1:])
