"""Cost of estimators, calibration and error feedback on networks as people bring them.

python -m tests.benchmarks networks

CPU time and peak memory, each in a process of its own, as multiples of those of plain forward and backward passes over
the same batches; feedback in µs a weight a run. BackPACK's diagonals stand beside them where it takes the network.
"""

import copy
import ctypes
import gc
import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch.nn import functional

import nbquant as nq
from tests.benchmarks import options
from tests.benchmarks.turns import one_thread
from tests.networks import Case, cases

ESTIMATORS = ("gauss_newton_sampled", "empirical_fisher", "gauss_newton", "hutchinson", "adam")
ONE_LABEL = ("ViT with class token", "MobileNet with PReLU", "speech, kernels of 512")
"""Networks with one label a sample; for others exact Gauss-Newton takes a backward pass for each word and class."""

LIMIT = 240  # s of CPU a contender may take


def plain(case: Case) -> None:
    """One forward and backward pass over every batch."""
    loss = case.loss or functional.cross_entropy
    for inputs, target in case.batches:
        case.model.zero_grad()
        output = case.model(*inputs) if isinstance(inputs, tuple) else case.model(inputs)
        loss(output, target).backward()


def contenders(case: Case, one_label: bool) -> dict[str, Callable[[], Any]]:
    """What is measured, by name; a weight's own cost in the one that ends in "run"."""

    def estimator(method: str) -> Callable[[], Any]:
        return lambda: nq.sensitivity(case.model, case.batches, method, loss=case.loss, progress=False)

    def calibrated() -> Any:
        return nq.calibrate(case.model, case.batches, loss=case.loss, progress=False)

    found: dict[str, Callable[[], Any]] = {"forward + backward": lambda: plain(case)}
    found |= {method: estimator(method) for method in ESTIMATORS if method != "gauss_newton" or one_label}
    found["calibrate"] = calibrated
    found["feedback, a run"] = lambda: None  # prepared in measure(), as its calibration is not part of a run
    if options.find_spec("backpack") is not None and one_label:
        found["BackPACK DiagGGNMC"] = lambda: _backpack(case)
    return found


def _backpack(case: Case) -> None:
    from backpack import backpack, extend, extensions

    twin = extend(copy.deepcopy(case.model), use_converter=True)
    loss = extend(torch.nn.CrossEntropyLoss())
    for inputs, target in case.batches:
        twin.zero_grad()
        with backpack(extensions.DiagGGNMC(mc_samples=1)):
            loss(twin(inputs), target).backward()


def measure(name: str, what: str, small: bool, rounds: int) -> tuple[str, float, float, int]:
    """What a contender says of itself, its CPU time [s], how far memory rose [bytes], and the number of weights."""
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        return _measured(name, what, small, rounds)


def _measured(name: str, what: str, small: bool, rounds: int) -> tuple[str, float, float, int]:
    case = cases(small)[name]()
    weights = sum(p.numel() for p in case.model.parameters())
    made = contenders(case, name in ONE_LABEL)
    run = made[what]
    if what == "feedback, a run":
        selection = nq.select(case.model, calibration=made["calibrate"]())
        power = sum(float(t.weight.square().sum()) for t in selection) / len(selection)
        h = nq.sensitivity(case.model, case.batches, "gauss_newton_sampled", loss=case.loss, progress=False)
        lmbda = 0.7 * h.mean * power * 4.0**-2.0  # about two bits a weight
        run = lambda: nq.Feedback(lmbda).fit(selection)  # noqa: E731
    try:
        run()  # compiles and fills caches
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        before = _resident("VmRSS")
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        seconds = []
        for _ in range(rounds):
            start = time.process_time()
            run()
            seconds.append(time.process_time() - start)
            if sum(seconds) > LIMIT:
                break
        return "", median(seconds), max(_resident("VmHWM") - before, 0), weights
    except Exception as error:  # a peer or estimator that does not take this network
        return f"{type(error).__name__}: {str(error)[:60]}", 0.0, 0.0, weights


def _resident(key: str) -> float:
    with open("/proc/self/status") as file:
        return next(1024.0 * int(line.split()[1]) for line in file if line.startswith(key + ":"))


def main(argv: list[str]) -> None:
    chosen = options.parse(argv, __doc__, rounds=3)
    if chosen is None:
        return
    options.installed("backpack")
    print(f"torch {torch.__version__}, one thread, CPU time; memory is what comes on top of the process before")
    context = multiprocessing.get_context("spawn")
    for name in ONE_LABEL[:1] if chosen.smoke else cases(small=False):
        base_seconds = base_memory = 1.0
        print(f"\n{name}")
        print(f"{'':26}{'ms':>9}{'× f + b':>9}{'MiB':>8}{'× f + b':>9}")
        names = list(contenders(cases(True)[name](), name in ONE_LABEL))
        for what in names[:2] if chosen.smoke else names:
            arguments = (name, what, chosen.smoke, chosen.rounds)
            if chosen.smoke:
                said, seconds, memory, weights = measure(*arguments)
            else:
                with context.Pool(1) as pool:
                    said, seconds, memory, weights = pool.apply(measure, arguments)
            if said:
                print(f"{what:26}{said}")
                continue
            if what == "forward + backward":
                base_seconds, base_memory = seconds, max(memory, 2.0**20)
            shown = f"{what:26}{1e3 * seconds:9.1f}{seconds / base_seconds:9.2f}{memory / 2**20:8.0f}"
            shown += f"{memory / base_memory:9.2f}"
            if what.endswith("run"):
                shown += f"   {1e6 * seconds / weights:.2f} µs a weight"
            print(shown, flush=True)
        print(f"{weights:,} weights")


if __name__ == "__main__":
    main(sys.argv[1:])
