"""The hot loops against what bounds them.

On the CPU each against one read of (w, h) and against one histogram pass, in processor time of all threads together;
on a CUDA device in GB/s, against the GB/s of a device copy of the same bytes. In turns, in one process; medians.
"""

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from nbquant.kernels import cuda, dispatch
from nbquant.kernels.keys import JOINT_SHIFT, MARGINAL_SHIFT

LEVELS = (32, 200)
Work = Callable[[], object]


def problem(n: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    weight = torch.randn(n, generator=generator, device=device).mul_(0.05)
    return weight, torch.randn(n, generator=generator, device=device).mul_(1.5).exp_()


def codebook_of(levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Evenly spaced codewords with the ideal lengths of a Gaussian's cells."""
    codebook = np.linspace(-0.15, 0.15, levels)
    mass = np.exp(-0.5 * (codebook / 0.05) ** 2)
    return codebook, -np.log2(mass / mass.sum())


def work(
    histogram: Callable, assign: Callable, gather: Callable, weight: torch.Tensor, h: torch.Tensor
) -> dict[str, tuple[Work, int]]:
    """Each kernel's call, and the bytes of weights, sensitivities and indices that it reads and writes."""
    out = torch.empty(len(weight), dtype=torch.int16, device=weight.device)
    n, sigma = len(weight), 0.05
    rows: dict[str, tuple[Work, int]] = {
        "histogram": (lambda: histogram(weight, h, MARGINAL_SHIFT, JOINT_SHIFT), 8 * n),
        "histogram of w alone": (lambda: histogram(weight, None, MARGINAL_SHIFT, None), 4 * n),
    }
    for levels in LEVELS:
        codebook, length = codebook_of(levels)
        for name, lmbda in (("nearest", 0.0), ("λ > 0", 0.02 * sigma**2)):

            def run(c: np.ndarray = codebook, l: np.ndarray = length, lmbda: float = lmbda) -> object:  # noqa: E741
                return assign(weight, h, c, l, lmbda, out)

            rows[f"assign k={levels} {name}"] = (run, 10 * n)
    values = torch.from_numpy(codebook_of(LEVELS[0])[0]).float().to(weight.device)
    indices = torch.randint(0, LEVELS[0], (n,), device=weight.device).to(torch.int8)
    rows["gather"] = (lambda: gather(values, indices), 5 * n)
    return rows


def medians(rows: dict[str, Work], measure: Callable[[Work], float], repeats: int) -> dict[str, float]:
    for row in rows.values():
        row()
    taken: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(repeats):
        for name, row in rows.items():
            taken[name].append(measure(row))
    return {name: float(np.median(times)) for name, times in taken.items()}


def on_cpu(n: int, repeats: int) -> None:
    weight, h = problem(n, torch.device("cpu"))
    rows = {
        name: call for name, (call, _) in work(dispatch.histogram, dispatch.assign, dispatch.gather, weight, h).items()
    }
    a, b = weight.numpy(), h.numpy()

    def measure(row: Work) -> float:
        started = time.process_time()
        row()
        return time.process_time() - started

    taken = medians({"one read of (w, h)": lambda: (a.sum(), b.sum()), **rows}, measure, repeats)
    read, passed = taken["one read of (w, h)"], taken["histogram"]
    print(f"N = {n:.1e}, {dispatch.THREADS} threads\n{'':28}{'ms':>9}{'ns/weight':>11}{'÷ read':>8}{'÷ histogram':>13}")
    for name, seconds in taken.items():
        print(f"{name:28}{1e3 * seconds:9.1f}{1e9 * seconds / n:11.2f}{seconds / read:8.1f}{seconds / passed:13.2f}")


def on_cuda(n: int, repeats: int) -> None:
    device = torch.device("cuda")
    reason = cuda.unavailable(device) if torch.cuda.is_available() else "there is no CUDA device"
    if reason:
        sys.exit(f"nothing to measure: {reason}")
    from nbquant.kernels.cuda.assign import assign
    from nbquant.kernels.cuda.gather import gather
    from nbquant.kernels.cuda.histogram import histogram

    weight, h = problem(n, device)
    rows = work(histogram, assign, gather, weight, h)
    # A copy moves each byte twice: of half the bytes, so that it moves as many.
    copies: dict[str, Work] = {}
    for name, (_, moved) in rows.items():
        source = torch.empty(moved // 2, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        copies[f"copy for {name}"] = lambda source=source, target=target: target.copy_(source)

    def measure(row: Work) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        row()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    taken = medians({name: call for name, (call, _) in rows.items()} | copies, measure, repeats)
    print(f"N = {n:.1e}, {torch.cuda.get_device_name(device)}; times include tables, launches and the way back of sums")
    print(f"{'':28}{'ms':>9}{'GB/s':>9}{'copy GB/s':>11}{'part of it':>12}")
    for name, (_, moved) in rows.items():
        seconds, copy = taken[name], taken[f"copy for {name}"]
        print(
            f"{name:28}{1e3 * seconds:9.3f}{moved / seconds / 1e9:9.0f}{moved / copy / 1e9:11.0f}{copy / seconds:12.0%}"
        )


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks kernels", description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--full", action="store_true", help="6.1·10⁷ weights in place of 10⁷")
    parser.add_argument("--weights", type=int, help="any number of weights")
    parser.add_argument("--rounds", type=int, help="measurements of each row")
    parser.add_argument("--smoke", action="store_true", help="only see whether it runs: few weights, one round")
    options = parser.parse_args(argv)
    n = options.weights or (61_000_000 if options.full else 300_000 if options.smoke else 10_000_000)
    rounds = options.rounds or (1 if options.smoke else 25 if options.device == "cuda" else 5)
    if options.device == "cuda":
        on_cuda(n, rounds)
    else:
        on_cpu(n, rounds)


if __name__ == "__main__":
    main(sys.argv[1:])
