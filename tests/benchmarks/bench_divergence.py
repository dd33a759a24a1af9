"""KL divergence from the original's predictions against bytes of whole files, method by method.

Every row is a file that was written, read again and measured on held-out data beside the original. Each method has the
code that serves it best. At the end each method's divergence is compared with that of the trellis at equal bytes, on
straight lines through the trellis' points in log KL over log bytes; and its bytes at equal divergence (Bjøntegaard).
With ``--rounds 3`` all is done with three calibrations, on samples that are drawn from the training data.

python -m tests.benchmarks divergence
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

import nbquant as nq
from nbquant.models.batches import Batches
from nbquant.models.evaluate import Evaluation
from tests.benchmarks import options
from tests.benchmarks.bjontegaard import more_bytes

METHODS = ("kmeans", "uniform", "ecsq", "trellis", "feedback")
CODES = {"ecsq": "arithmetic"}  # the others code adaptively, "context"
BASIS = "trellis"  # what the others are compared with
RATIOS = {"gpt-python": (5.0, 6.0, 8.0, 10.0), "mobilenet-fashion": (6.0, 7.0, 8.5, 10.0)}
SAMPLES = {"gpt-python": 200, "mobilenet-fashion": 2000}  # held out; all of them with --full


@dataclass(frozen=True)
class File:
    """A file that was written, and what the network in it is worth."""

    method: str
    size: int
    found: Evaluation

    @property
    def kl(self) -> float:
        """Mean divergence [nat/label]; a tiny one in place of zero, so that it has a logarithm."""
        assert self.found.comparison is not None
        return max(self.found.comparison.kl_mean, 1e-9)


def main(argv: list[str]) -> None:
    chosen = options.parse(argv, __doc__, rounds=1)
    if chosen is None:
        return
    for name in list(RATIOS)[: 1 if chosen.smoke else None]:
        model, data = nq.zoo.load(name)
        test = data.test if chosen.full else data.test.take(2 if chosen.smoke else SAMPLES[name])
        original = nq.evaluate(model, test, progress=False)
        source = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
        print(f"\n{name}: {source:,} bytes of parameters, {original}")
        unit = "bit/label" if original.is_sequence else "accuracy"
        print(f"{'':<12}{'asked':>7}{'bytes':>10}{'KL [nat]':>11}{'99 %':>10}{'same':>9}{unit:>11}{'fit [s]':>9}")
        saved: dict[str, list[float]] = {}
        for seed in range(chosen.rounds):
            calibration = data.calibration if seed == 0 else _drawn(data.train, data.calibration.samples, seed)
            if chosen.rounds > 1:
                print(f"calibration {seed + 1}")
            files = []
            for file, ratio, seconds in _files(name, model, calibration, test, chosen.smoke):
                files.append(file)
                print(f"{_line(file, ratio)}{seconds:>9.1f}", flush=True)
            _sum_up(files)
            for method in METHODS:
                saved.setdefault(method, []).append(more_bytes(_curve(files, method), _curve(files, BASIS)))
        print(f"bytes at equal KL, over those of the {BASIS} (one number for each calibration)")
        for method, found in saved.items():
            print(f"{method:<12}" + "".join(f"{100 * each:>+9.1f} %" for each in found))


def _drawn(train: Batches, count: int, seed: int) -> Batches:
    chosen = torch.randperm(train.samples, generator=torch.Generator().manual_seed(seed))[:count]
    return Batches(train.inputs[chosen], train.targets[chosen], train.batch_size)


def _curve(files: list[File], method: str) -> list[tuple[float, float]]:
    return [(file.size, file.kl) for file in files if file.method == method]


def _files(
    name: str, model: nn.Module, calibration: Batches, test: Batches, smoke: bool
) -> Iterator[tuple[File, float, float]]:
    """Each file with the ratio that was asked for, and the time that its fit took [s]."""
    calibration = calibration.take(2) if smoke else calibration
    h = nq.sensitivity(model, calibration, damping=0.1, progress=False)
    layers = ["layers.0.out"] if smoke else None
    selection = nq.select(model, h, layers=layers, calibration=nq.calibrate(model, calibration, progress=False))
    target = {} if smoke else {"file_of": model}
    with tempfile.TemporaryDirectory() as folder:
        for method in METHODS:
            for ratio in RATIOS[name][: 2 if smoke else None]:
                path, start = Path(folder) / "one.nbq", time.perf_counter()
                coding = CODES.get(method, "context")
                made = nq.fit(selection, method, ratio=ratio, **target, coding=coding, progress=False)
                seconds = time.perf_counter() - start
                nq.save(made, path, model, progress=False)
                found = nq.evaluate(nq.load(path).apply(model), test, progress=False, reference=model)
                yield File(method, path.stat().st_size, found), ratio, seconds


def _line(file: File, ratio: float) -> str:
    compared = file.found.comparison
    assert compared is not None
    if file.found.is_sequence and file.found.bits_per_label is not None:
        quality = f"{file.found.bits_per_label:>11.4f}"
    else:
        quality = f"{100 * (file.found.accuracy or 0.0):>9.2f} %"
    kl = f"{compared.kl_mean:>11.5f}{compared.kl_99:>10.4f}{100 * compared.agreement:>7.2f} %"
    return f"{file.method:<12}{ratio:>6g}×{file.size:>10,}{kl}{quality}"


def _sum_up(files: list[File]) -> None:
    for method in dict.fromkeys(file.method for file in files):
        if method != BASIS:
            said = compared(files, method)
            print(f"{method:<12}KL over that of the {BASIS} at equal bytes: {said}")
    worse = _ratios(files, "feedback")
    if worse:
        at = [f"{size:,} bytes" for size, ratio in worse if ratio > 1]
        print(f"feedback is {'worse than trellis at ' + ', '.join(at) if at else 'nowhere worse than trellis'}")


def compared(files: list[File], method: str) -> str:
    """The factors on the divergence of the trellis, from the largest file to the smallest."""
    return ", ".join(f"{ratio:.2f}×" for _, ratio in _ratios(files, method)) or "no bytes in common"


def _ratios(files: list[File], method: str) -> list[tuple[int, float]]:
    """For each file of a method, its bytes and its KL over that of the basis at as many bytes, largest first.

    Files a little beyond the ends of the basis' curve are compared with the straight line continued.
    """
    basis = sorted((file for file in files if file.method == BASIS), key=lambda file: file.size)
    if len(basis) < 2:
        return []
    x = np.log([file.size for file in basis])
    y = np.log([file.kl for file in basis])
    found = []
    for file in sorted((file for file in files if file.method == method), key=lambda file: -file.size):
        at = float(np.log(file.size))
        if x[0] - 0.05 <= at <= x[-1] + 0.05:
            i = int(np.clip(np.searchsorted(x, at), 1, len(x) - 1))
            line = y[i - 1] + (y[i] - y[i - 1]) * (at - x[i - 1]) / (x[i] - x[i - 1])
            found.append((file.size, float(file.kl / np.exp(line))))
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
