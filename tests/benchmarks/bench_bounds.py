"""The rate-distortion bound of a histogram that is ready: time, and what is certain of it.

python -m tests.benchmarks bounds [--full]
"""

import sys
from collections.abc import Callable

from nbquant.analysis.bounds import Bound, rate_distortion_bound, shannon_lower_bound
from nbquant.quantization.histogram import Histogram
from tests.benchmarks import options, synthetic
from tests.benchmarks.turns import one_thread, take_turns

GAP = 0.005
PREVIEW = 0.05
PREVIEW_LMBDA = 3e-4


def main(argv: list[str]) -> None:
    chosen = options.parse(argv, __doc__, rounds=3)
    if chosen is None:
        return
    n = 20_000 if chosen.smoke else 60_000_000 if chosen.full else 1_000_000
    gap = PREVIEW if chosen.smoke else GAP
    source = Histogram.of(*synthetic.weights(n))
    runs: dict[str, Callable[[], Bound]] = {
        f"12 points, gap {gap}": lambda: rate_distortion_bound(source, gap=gap, progress=False),
        f"12 points, gap {PREVIEW}": lambda: rate_distortion_bound(source, gap=PREVIEW, progress=False),
        f"1 point, gap {PREVIEW}": lambda: rate_distortion_bound(
            source, lmbdas=[PREVIEW_LMBDA], gap=PREVIEW, progress=False
        ),
    }
    with one_thread():
        taken = take_turns(runs, chosen.rounds)
        both = rate_distortion_bound(source, side="both", lmbdas=[PREVIEW_LMBDA], gap=gap, progress=False)
    print(f"Laplacian weights, log-normal h (σ = 2), N = {n:.2g}, {len(source.joint.key)} bins; one thread, medians")
    for name, measured in taken.items():
        print(f"{name:28}{measured.ms:12.1f} CPU ms")
    bound = taken[f"12 points, gap {gap}"].result
    shannon = shannon_lower_bound(source, bound.distortion)
    columns = [bound.lmbda, bound.distortion, bound.rate, bound.lower, bound.gap, bound.binning, shannon]
    print("".join(f"{name:>12}" for name in ("λ", "D", "rate", "lower", "gap", "binning", "Shannon")))
    for row in zip(*columns, strict=True):
        print("".join(f"{value:12.3e}" for value in row[:2]) + "".join(f"{value:12.4f}" for value in row[2:]))
    print(f"h at both sides, λ = {PREVIEW_LMBDA:.0e}: rate {both.rate[0]:.4f}, lower {both.lower[0]:.4f}")


if __name__ == "__main__":
    main(sys.argv[1:])
