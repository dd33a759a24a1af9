"""A sharded bfloat16 checkpoint on disk, quantized to a file: time a weight, and memory, from 10⁷ weights up.

Each size runs in a process of its own, and again with two workers of Dask that take a task a file. "held" is the
largest anonymous memory of the process, and of the workers together, sampled; what is mapped from files counts apart,
since the system takes it back when it needs it.
"""

import json
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import nbquant as nq
from nbquant.analysis.statistics import Statistics
from tests.benchmarks import options

SIDE = 4096  # of a layer's matrix, as large language models have them
LAYERS_A_FILE = 12  # 400 MB
RATIO = 5.0  # of bfloat16: 3.2 bits a weight
SAMPLE = 0.02  # s
SPARE = 1.5  # times what is written, which must be free


def generate(folder: Path, weights: int) -> int:
    """Write a checkpoint of heavy-tailed weights, so many or a few more; returns how many."""
    side = min(SIDE, int(weights**0.5))
    layers = -(-weights // side**2)
    where: dict[str, str] = {}
    for first in range(0, layers, LAYERS_A_FILE):
        name = f"model-{first:05}.safetensors"
        tensors = {}
        for i in range(first, min(first + LAYERS_A_FILE, layers)):
            generator = torch.Generator().manual_seed(i)
            values = torch.empty(side, side).normal_(generator=generator)
            tensors[f"layers.{i}.weight"] = values.mul_(values.abs().sqrt_()).mul_(0.01 * (1 + i % 7)).bfloat16()
        save_file(tensors, folder / name)
        where |= dict.fromkeys(tensors, name)
    index = {"metadata": {"total_size": 2 * layers * side**2}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return layers * side**2


def held(process: int | str = "self") -> int:
    """Anonymous memory of a process [bytes]; none if it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return 1024 * sum(int(found) for found in re.findall(r"^(?:RssAnon|RssShmem):\s+(\d+) kB", status, re.MULTILINE))


class Peak:
    """The largest anonymous memory of processes together while it runs."""

    def __init__(self, *processes: int | str) -> None:
        self.processes = processes

    def __enter__(self) -> "Peak":
        self.bytes, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE):
            self.bytes = max(self.bytes, sum(map(held, self.processes)))


@contextmanager
def dask_client(workers: int) -> Iterator[Any]:
    """A client of so many worker processes; None if it is none."""
    if not workers:
        yield None
        return
    from distributed import Client, LocalCluster

    here = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(n_workers=workers, threads_per_worker=1, local_directory=folder, **here) as cluster,
        Client(cluster) as client,
    ):
        yield client


def quantize(folder: Path, workers: int) -> dict[str, float]:
    """Seconds of each step, peak bytes, and what came out."""
    with dask_client(workers) as client:
        warm(client)
        others = client.run(os.getpid).values() if client else ()
        return measured(folder, client, *others)


def measured(folder: Path, client: Any, *others: int) -> dict[str, float]:
    """The same, where all kernels are compiled."""
    found: dict[str, float] = {}
    with Peak("self") as peak, Peak(*others) as elsewhere:
        began = time.perf_counter()
        selection = nq.select(folder, executor=client)
        found["select"] = time.perf_counter() - began
        began = time.perf_counter()
        Statistics.of(selection)
        found["statistics"] = time.perf_counter() - began
        began = time.perf_counter()
        q = nq.fit(selection, "ecsq", ratio=RATIO, progress=False)
        found["fit"] = time.perf_counter() - began
        began = time.perf_counter()
        ledger = nq.save(q, folder / "model.nbq", model=folder, progress=False)
        found["save"] = time.perf_counter() - began
    size = (folder / "model.nbq").stat().st_size
    assert ledger.total == 8 * size
    of_workers = {"elsewhere": elsewhere.bytes} if others else {}
    return found | of_workers | {"held": peak.bytes, "ratio": 2 * len(selection) / size, "weights": len(selection)}


def warm(client: Any) -> None:
    """Kernels are compiled before anything is measured, by the workers, too."""
    if client:
        client.run(warm, None)
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder), 100_000)
        q = nq.fit(nq.select(folder), "ecsq", ratio=RATIO, progress=False)
        nq.save(q, Path(folder) / "model.nbq", model=folder, progress=False)


def main(argv: list[str]) -> None:
    chosen = options.parse(argv, __doc__)
    if chosen is None:
        return
    sizes = [200_000] if chosen.smoke else [10**7, 10**8, *([5 * 10**8, 2 * 10**9] if chosen.full else [])]
    print(f"ECSQ without sensitivities, {RATIO:g}×, one codebook; nanoseconds a weight, memory in MiB")
    print(
        f"{'weights':>15}{'workers':>9}{'statistics':>12}{'fit':>8}{'save':>8}{'together':>10}{'s':>9}{'held':>9}"
        f"{'by workers':>12}{'file':>9}"
    )
    for weights in sizes:
        with tempfile.TemporaryDirectory() as name:
            needed, free = SPARE * 2 * weights, shutil.disk_usage(name).free
            if needed > free:
                print(f"left out: {weights:.3g} weights need {needed / 2**30:.1f} GiB, {free / 2**30:.1f} are free")
                continue
            generate(Path(name), weights)
            for workers in (1,) if chosen.smoke else (0, 2):
                # The second run would find the histograms of the first in the cache.
                cache = str(Path(name) / f"cache-{workers}")
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), cached_in, (cache,)) as pool:
                    show(workers, pool.submit(quantize, Path(name), workers).result())


def cached_in(folder: str) -> None:
    """Keep statistics here, also those of the workers that this process starts."""
    os.environ["NBQUANT_CACHE"] = folder


def show(workers: int, found: dict[str, float]) -> None:
    """A row."""
    n = found["weights"]
    steps = [found[step] for step in ("statistics", "fit", "save")]
    shown = "".join(f"{1e9 * s / n:{width}.1f}" for s, width in zip(steps, (12, 8, 8), strict=True))
    whole = sum(steps) + found["select"]
    elsewhere = f"{found['elsewhere'] / 2**20:12.0f}" if workers else f"{'':12}"
    print(
        f"{n:15,.0f}{workers:9}{shown}{1e9 * whole / n:10.1f}{whole:9.1f}{found['held'] / 2**20:9.0f}{elsewhere}"
        f"{found['ratio']:8.2f}×",
        flush=True,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
