"""Measuring contenders in turns, so that what else the machine does falls on all alike; CPU time of one thread."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Generic, TypeVar

import torch
from threadpoolctl import threadpool_limits

from nbquant.kernels import dispatch

T = TypeVar("T")


@dataclass(frozen=True)
class Measured(Generic[T]):
    """What one contender took, and what it returned last.

    Attributes:
        seconds: CPU time of each round.
        result: Of the last call.
    """

    seconds: tuple[float, ...]
    result: T

    @property
    def ms(self) -> float:
        """Median."""
        return 1e3 * median(self.seconds)

    @property
    def most_ms(self) -> float:
        return 1e3 * max(self.seconds)


@contextmanager
def one_thread() -> Iterator[None]:
    """Everything in one thread: ours, torch's, and those of BLAS and OpenMP."""
    threads, of_torch = dispatch.THREADS, torch.get_num_threads()
    dispatch.THREADS = 1
    dispatch._pool.cache_clear()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        dispatch.THREADS = threads
        dispatch._pool.cache_clear()
        torch.set_num_threads(of_torch)


def take_turns(
    runs: Mapping[str, Callable[[], T]], rounds: int, warm: bool = True, budget: float = float("inf")
) -> dict[str, Measured[T]]:
    """Measure each contender once a round.

    Args:
        runs: Contenders by name.
        rounds: Measurements of each.
        warm: Whether a first round that does not count compiles and fills caches.
        budget: Seconds after which a contender sits out the rounds that are left.
    """
    if warm:
        for run in runs.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    results: dict[str, T] = {}
    for _ in range(rounds):
        for name, run in runs.items():
            if sum(seconds[name]) > budget:
                continue
            # Of the process, as our kernels have threads of their own; with one at work at a time.
            start = time.process_time()
            results[name] = run()
            seconds[name].append(time.process_time() - start)
    return {name: Measured(tuple(taken), results[name]) for name, taken in seconds.items()}
