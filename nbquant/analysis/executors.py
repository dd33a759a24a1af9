"""Executors of a sweep: this process, local worker processes, or the workers of a Dask cluster."""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from pathlib import Path
from pickle import PicklingError
from typing import Any, TypeAlias

import torch

from nbquant.progress import Cancelled, Progress

RETRIES = 3  # for a run whose worker was killed
LOOK = 0.1  # s between two checks for cancellation

Run = Callable[[Any, Any, Progress], dict[str, Any]]
"""run(subject, task, progress) returns the row of a task; it must be importable by worker processes."""

Tasks = Sequence[tuple[str, Any]]
"""(name of the subject, task)."""

Executor: TypeAlias = Any
"""None, a number of processes, or a ``dask.distributed.Client``."""


def completed(
    executor: Executor, run: Run, subjects: Mapping[str, Any], tasks: Tasks, look: Callable[[], None]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (index of the task, row) as runs end; leaving the iteration cancels the runs that have not begun.

    Args:
        executor: None runs one after the other in this process; a number uses that many local processes; a
            Dask client uses its workers.
        run: Runs one task.
        subjects: Subjects of the tasks, by name; each is sent once to a worker, not once per task.
        tasks: The tasks.
        look: Called several times a second while waiting; an exception from it stops the sweep.

    Raises:
        TypeError: Another executor.
        ValueError: A number of processes below 1.
        RuntimeError: A task whose workers died repeatedly.
        Cancelled: By ``look``.
    """
    if executor is None:
        return _here(run, subjects, tasks, look)
    if isinstance(executor, int) and not isinstance(executor, bool):
        if executor < 1:
            raise ValueError(f"executor must be 1 process or more, but is {executor}")
        return _processes(executor, run, subjects, tasks, look)
    if hasattr(executor, "scatter") and hasattr(executor, "submit"):
        return _dask(executor, run, subjects, tasks, look)
    raise TypeError(
        "executor must be None, a number of processes or a dask.distributed.Client, "
        f"but is of type {type(executor).__name__}"
    )


def _here(
    run: Run, subjects: Mapping[str, Any], tasks: Tasks, look: Callable[[], None]
) -> Iterator[tuple[int, dict[str, Any]]]:
    for i, (name, task) in enumerate(tasks):
        look()
        yield i, run(subjects[name], task, lambda _done, _total: look())


def _processes(
    count: int, run: Run, subjects: Mapping[str, Any], tasks: Tasks, look: Callable[[], None]
) -> Iterator[tuple[int, dict[str, Any]]]:
    # Spawned, since torch and numba have threads that a fork would leave behind.
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    left, broken = dict(enumerate(tasks)), 0
    with tempfile.TemporaryDirectory(prefix="nbquant-") as folder:
        paths = {name: _written(Path(folder) / f"{i}.pt", name, subjects[name]) for i, name in enumerate(subjects)}
        while left:
            pool = ProcessPoolExecutor(min(count, len(left)), context, _begin, (stop, count))
            try:
                futures = {pool.submit(_in_process, run, paths[name], task): i for i, (name, task) in left.items()}
                for future in _as_completed(futures, look):
                    row = future.result()
                    del left[futures[future]]
                    yield futures[future], row
            except BrokenProcessPool as error:
                broken += 1
                if broken > RETRIES:
                    raise RuntimeError(
                        f"worker processes died {broken} times, and {len(left)} runs are left: use fewer processes if "
                        "memory runs out; a script must start its sweep under if __name__ == '__main__'."
                    ) from error
            finally:
                if left:
                    stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                stop.clear()


def _written(path: Path, name: str, subject: Any) -> Path:
    try:
        torch.save(subject, path)
    except (PicklingError, AttributeError, TypeError) as error:
        raise TypeError(
            f"model {name!r} must be picklable to be sent to other processes, but is not ({error}): define its class "
            "in a module that can be imported, or run in this process with executor=None."
        ) from error
    return path


_stop: Any = None


def _begin(stop: Any, processes: int) -> None:
    global _stop
    _stop = stop
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))


def _in_process(run: Run, path: Path, task: Any) -> dict[str, Any]:
    return run(_read(path), task, _unless_stopped)


@lru_cache(maxsize=1)
def _read(path: Path) -> Any:
    # Just written by the parent process; pages are mapped, so all workers share them.
    return torch.load(path, mmap=True, weights_only=False)


def _unless_stopped(_done: int, _total: int | None) -> None:
    if _stop is not None and _stop.is_set():
        raise Cancelled


def _as_completed(futures: Mapping["Future[dict[str, Any]]", int], look: Callable[[], None]) -> Iterator[Any]:
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, LOOK, FIRST_COMPLETED)
        # Finished runs come first: none is lost if the worker of another has died or the user cancels.
        yield from sorted(done, key=lambda future: (future.exception() is not None, futures[future]))
        look()


def _dask(
    client: Any,
    run: Run,
    subjects: Mapping[str, Any],
    tasks: Tasks,
    look: Callable[[], None],
) -> Iterator[tuple[int, dict[str, Any]]]:
    held: dict[str, Any] = {}
    left, tried = dict(enumerate(tasks)), 0
    while left:
        # Replicated to every worker, so that a worker that dies takes nothing along that the others need.
        held |= {n: client.scatter(subjects[n], broadcast=True, hash=False) for n, _ in left.values() if n not in held}
        waiting = {
            client.submit(_on_worker, run, held[name], task, retries=RETRIES, pure=False): i
            for i, (name, task) in left.items()
        }
        try:
            while waiting:
                look()
                done = [future for future in waiting if future.done()]
                if not done:
                    time.sleep(LOOK)
                for future in done:
                    i = waiting.pop(future)
                    if future.status == "finished":
                        row = future.result()
                        del left[i]
                        yield i, row
                    elif future.status == "error" and type(future.exception()).__name__ != "KilledWorker":
                        future.result()
        finally:
            client.cancel(list(waiting))
        if left:  # all workers that held a model have died
            tried += 1
            if tried > RETRIES:
                raise RuntimeError(
                    f"{len(left)} runs are left whose workers died {tried} times: give workers more memory, or check "
                    "their logs."
                )
            held.clear()


def _on_worker(run: Run, subject: Any, task: Any) -> dict[str, Any]:
    return run(subject, task, False)
