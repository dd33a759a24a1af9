"""Run jobs in threads: one at a time in a slot, the newest wins, and cancelling works while a cell runs."""

import atexit
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nbquant.progress import Cancelled

Report = Callable[[float, float | None], None]
"""Told (done, total) by the work, where a float total is an estimate.

Raises :class:`nbquant.progress.Cancelled` once the result is no longer wanted.
"""


@dataclass(frozen=True)
class Job:
    """Work and what becomes of it.

    Attributes:
        work: Does it; gets a :data:`Report`.
        done: Gets the result, unless a newer job has come or it was cancelled.
        failed: Gets what went wrong.
        cancelled: Called when the user cancelled it; not when a newer job took its place.
        reported: Gets (done, total) as the work goes on.
    """

    work: Callable[[Report], Any]
    done: Callable[[Any], None]
    failed: Callable[[Exception], None]
    cancelled: Callable[[], None] = field(default=lambda: None)
    reported: Report = field(default=lambda done, total: None)


LAST = 10.0  # s that work under way is waited for when Python ends
_slots: "weakref.WeakSet[Slot]" = weakref.WeakSet()
_ending = threading.Event()


@atexit.register
def end_all() -> None:
    """End all work: Python must not end under a thread that is in compiled code, which would abort the process."""
    _ending.set()
    slots = list(_slots)
    for slot in slots:
        slot.cancel()
    for slot in slots:
        slot.wait(LAST)


class Slot:
    """Runs one job at a time in a thread of its own; a newer job replaces the one under way."""

    def __init__(self, name: str) -> None:
        """Make a slot; its thread starts with the first job and ends when it runs out of jobs."""
        self._name = name
        self._lock = threading.Lock()
        self._idle = threading.Event()
        self._idle.set()
        self._next: Job | None = None
        self._stop = threading.Event()
        self._by_user = False
        _slots.add(self)

    @property
    def busy(self) -> bool:
        """Whether a job is under way or waiting."""
        return not self._idle.is_set()

    def start(self, job: Job) -> None:
        """Run ``job`` as soon as the one under way has noticed that it is no longer wanted."""
        with self._lock:
            if _ending.is_set():
                return
            self._next = job
            self._stop.set()
            if self._idle.is_set():
                self._idle.clear()
                threading.Thread(target=self._run, name=f"nbquant-{self._name}", daemon=True).start()

    def cancel(self) -> None:
        """Drop the job under way and the one that waits."""
        with self._lock:
            self._by_user = True
            self._next = None
            self._stop.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is under way; False if ``timeout`` [s] ran out."""
        return self._idle.wait(timeout)

    def _run(self) -> None:
        while True:
            with self._lock:
                job, self._next = self._next, None
                if job is None:
                    self._idle.set()
                    return
                self._stop, self._by_user = threading.Event(), False
                stop = self._stop
            self._do(job, stop)

    def _do(self, job: Job, stop: threading.Event) -> None:
        def report(done: float, total: float | None) -> None:
            if stop.is_set():
                raise Cancelled
            job.reported(done, total)

        try:
            result = job.work(report)
            if stop.is_set():
                raise Cancelled
            job.done(result)
        except Cancelled:
            if self._by_user:
                job.cancelled()
        except Exception as error:  # whatever a model of the user's raises is shown, and the slot lives on
            if not stop.is_set():
                job.failed(error)
