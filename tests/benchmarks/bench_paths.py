"""The trellis: design on a sample of columns and one pass over all weights, beside the full search, one thread.

Both run on the same weights at the same λ, in turns; J = loss + λ · bits is that of the code in use. "passes" is the
number of weights that went through the Viterbi search over the number of weights. Then the whole of nq.fit to a
compression ratio: its runs, and its time over that of one run. Last the most memory that one run with its code takes
beyond weights and sensitivities.

python -m tests.benchmarks paths
"""

import math
import sys
import time
from collections.abc import Callable, Iterator
from unittest import mock

import torch

import nbquant as nq
from nbquant.quantization import paths
from nbquant.quantization.selection import Selection, as_selection
from nbquant.quantization.steps import mean_sensitivity
from tests.benchmarks import options, synthetic
from tests.benchmarks.memory import peak_of, print_peak
from tests.benchmarks.turns import one_thread, take_turns

RATES = (1.0, 2.0, 4.0)  # bit/weight of a Gaussian source at the same λ
RATIOS = (8.0, 20.0, 40.0)
NETWORKS = ("lenet5-fashion", "gpt-python")
NEVER = 1 << 62
LMBDA = 5e-4  # of the run whose memory is measured, at about 1 bit/weight


def main(argv: list[str]) -> None:
    if argv[:1] == ["--memory"]:
        print_peak(lambda: _prepared(int(argv[1])))
        return
    chosen = options.parse(argv, __doc__, rounds=3)
    if chosen is None:
        return
    print("µs of CPU time a weight")
    print(f"{'':<26}{'weights':>11}{'λ':>10}{'bit/weight':>11}{'full':>9}{'here':>9}{'faster':>8}{'J':>9}{'passes':>8}")
    for name, selection in _sources(chosen.smoke, chosen.full):
        power = sum(float(t.weight.double().square().sum()) for t in selection) / len(selection)
        for rate in RATES[: 1 if chosen.smoke else None]:
            lmbda = math.log(2) * mean_sensitivity(selection) * power * 4.0**-rate
            _compare(name, selection, lmbda, chosen.rounds, NEVER if chosen.smoke else paths.LEAST_SAMPLED)
    print(f"\n{'':<26}{'weights':>11}{'ratio':>10}{'reached':>11}{'runs':>9}{'one run':>9}{'all':>8}  s of CPU time")
    for name, selection in _sources(chosen.smoke, chosen.full):
        for ratio in RATIOS[: 1 if chosen.smoke else None]:
            _to_ratio(name, selection, ratio)
    print("\nmost memory beyond weights and sensitivities")
    for n in (10_000,) if chosen.smoke else (1_000_000, 10_000_000, *[100_000_000] * chosen.full):
        found = peak_of("tests.benchmarks.bench_paths", n)
        if found is not None:
            print(f"{n:>37,} weights{found / 1e6:>10.0f} MB{found / n:>10.1f} bytes a weight", flush=True)


def _prepared(n: int) -> Callable[[], object]:
    trellis = nq.Trellis(LMBDA)
    trellis.fit(*synthetic.weights(10_000))  # compiles
    w, h = (x.reshape(-1, 1000) for x in synthetic.weights(n))
    return lambda: trellis.fit(w, h)


def _to_ratio(name: str, selection: Selection, ratio: float) -> None:
    times, real_paths = list[float](), nq.Trellis.paths

    def timed(trellis: nq.Trellis, *given: object) -> paths.Paths:
        begin = time.process_time()
        found = real_paths(trellis, *given)  # type: ignore[arg-type]
        times.append(time.process_time() - begin)
        return found

    with one_thread(), mock.patch.object(nq.Trellis, "paths", timed):
        begin = time.process_time()
        found = nq.fit(selection, "trellis", ratio=ratio, progress=False)
        whole = time.process_time() - begin
    mean = sum(times) / len(times)
    print(
        f"{name:<26}{len(selection):>11,}{ratio:>10g}{found.compression_ratio:>11.3f}{len(times):>9}{mean:>9.2f}{whole:>8.2f}"
    )


def _sources(smoke: bool, full: bool) -> Iterator[tuple[str, Selection]]:
    for side in (32,) if smoke else (1000, 3163) if full else (1000,):
        w, h = (torch.as_tensor(x).reshape(side, side) for x in synthetic.weights(side * side))
        yield f"synthetic {side} × {side}", as_selection(w, h)
    for name in NETWORKS[: 0 if smoke else None]:
        model, data = nq.zoo.load(name)
        yield name, nq.select(model, nq.sensitivity(model, data.calibration.take(200), damping=0.05, progress=False))


def _compare(name: str, selection: Selection, lmbda: float, rounds: int, least: int) -> None:
    trellis, passed = nq.Trellis(lmbda), {"full": 0, "here": 0}

    def run(label: str, least: int) -> paths.Paths:
        passed[label], real = 0, paths.dispatch.viterbi_in_strips

        def counted(target: torch.Tensor, *rest: object) -> torch.Tensor:
            passed[label] += target.numel()
            return real(target, *rest)  # type: ignore[arg-type]

        kernel = mock.patch.object(paths.dispatch, "viterbi_in_strips", counted)
        with mock.patch.object(paths, "LEAST_SAMPLED", least), kernel:
            return trellis.paths(selection)

    with one_thread():
        found = take_turns({"full": lambda: run("full", NEVER), "here": lambda: run("here", least)}, rounds)
    n = len(selection)
    whole, here = (found[label].result for label in ("full", "here"))
    j = (here.loss + lmbda * here.bits) / (whole.loss + lmbda * whole.bits)
    each = [1e3 * found[label].ms / n for label in ("full", "here")]
    print(
        f"{name:<26}{n:>11,}{lmbda:>10.2g}{here.bits / n:>11.3f}{each[0]:>9.3f}{each[1]:>9.3f}"
        f"{each[0] / each[1]:>7.1f}×{j:>9.4f}{passed['here'] / n:>8.2f}"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
