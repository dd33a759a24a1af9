"""Background jobs: scheduling, progress and errors."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import traitlets

from nbquant.widgets.jobs.pace import Pace
from nbquant.widgets.jobs.slot import Job, Report, Slot

APART = 0.1  # s between two words about one job


class Jobs:
    """Jobs that run in slots beside each other, and one lock for all that they and the inputs change.

    Each job and each input has a message of its own, so that none hides behind the success of another.

    Attributes:
        lock: Held while a result is taken over or a message told.
    """

    def __init__(
        self, slots: Sequence[str], show: Callable[[str, float, str], None], show_error: Callable[[str], None]
    ) -> None:
        """Make the slots.

        Args:
            slots: Their names; of several under way, the first is told of.
            show: Gets what is under way in words, "" for nothing, the part that is done, negative if unknown, and how
                fast it goes, in words.
            show_error: Gets all messages of errors, "" if there are none.
        """
        self.lock = threading.RLock()
        self._slots = {name: Slot(name) for name in slots}
        self._newest: dict[str, object] = {}  # what stands for the job that is wanted in each slot
        self._under_way: dict[str, tuple[str, float, str]] = {}
        self._activities: dict[str, str] = {}
        self._errors: dict[str, str] = {}
        self._show, self._show_error = show, show_error

    def start(
        self,
        slot: str,
        activity: str,
        work: Callable[[Report], Any],
        done: Callable[[Any], None],
        quiet: float = 0.0,
    ) -> None:
        """Run a job in place of the one in its slot.

        Args:
            slot: Name of the slot.
            activity: What it does, in words.
            work: Does it, in a thread of its own.
            done: Takes over the result, under the lock.
            quiet: How long it runs before it is told of [s].
        """
        begun, shown = time.monotonic(), 0.0
        pace, job = Pace(), object()

        def finished(result: Any) -> None:
            with self.lock:
                if self._newest.get(slot) is job:  # it may have been cancelled a moment ago
                    with self.reporting(slot):
                        done(result)
            self._settle(slot, job)

        def failed(error: Exception) -> None:
            with self.lock:
                if self._newest.get(slot) is job:
                    self.tell(slot, message_of(error))
            self._settle(slot, job)

        def reported(done: float, total: float | None) -> None:
            nonlocal shown
            now, words = time.monotonic(), pace.told(done, total)
            if now - begun < quiet or (now - shown < APART and slot in self._under_way):
                return
            with self.lock:
                if self._newest.get(slot) is job:
                    shown = now
                    self._under_way[slot] = self._activities[slot], min(done / total, 1.0) if total else -1.0, words
                    self._show_activity()

        with self.lock:
            self._newest[slot], self._activities[slot] = job, activity
            self._under_way.pop(slot, None)
            reported(0, None)
            self._slots[slot].start(Job(work, finished, failed, lambda: self._settle(slot, job), reported))

    def wanted(self, slot: str) -> bool:
        """Whether a result of this slot is still to come."""
        return self.busy(slot) and slot in self._newest

    def rename(self, slot: str, activity: str) -> None:
        """Say what the job of a slot does now, from its next report on."""
        with self.lock:
            self._activities[slot] = activity

    @property
    def any_wanted(self) -> bool:
        """Whether a result of any slot is still to come."""
        return any(map(self.wanted, self._slots))

    def busy(self, slot: str) -> bool:
        """Whether a job of this slot is under way or waiting."""
        return self._slots[slot].busy

    def cancel(self, *slots: str) -> None:
        """Stop what is under way in these slots, or in all."""
        with self.lock:
            for slot in slots or self._slots:
                self._newest.pop(slot, None)
                self._slots[slot].cancel()

    def wait(self, timeout: float = 60.0, slots: Sequence[str] = ()) -> bool:
        """Wait until nothing is under way in these slots, or in any, the first first; False after ``timeout`` [s]."""
        return all(self._slots[name].wait(timeout) for name in slots or self._slots)

    @contextmanager
    def reporting(self, source: str) -> Iterator[None]:
        """Turn what a wrong input raises into a message; a right one takes it back."""
        try:
            yield
        except (ValueError, TypeError, RuntimeError) as error:
            self.tell(source, message_of(error))
        else:
            self.tell(source, "")

    def tell(self, source: str, message: str) -> None:
        """Say what is wrong with an input or a job; "" takes it back."""
        self._errors[source] = message
        told = [m for m in self._errors.values() if m]
        self._show_error("; ".join([*(m.removesuffix(".") for m in told[:-1]), *told[-1:]]))

    def _settle(self, slot: str, job: object) -> None:
        with self.lock:
            if self._newest.get(slot) in (job, None):
                self._under_way.pop(slot, None)
                self._show_activity()

    def _show_activity(self) -> None:
        self._show(*next((self._under_way[s] for s in self._slots if s in self._under_way), ("", -1.0, "")))


def message_of(error: Exception) -> str:
    """One line for the user; our own errors say it all, others get their type."""
    text = " ".join(str(error).split())
    ours = isinstance(error, ValueError | TypeError | traitlets.TraitError)
    ours = ours or (isinstance(error, OSError) and error.errno is None)  # the system's own have a number
    return text if ours and text else f"{type(error).__name__}: {text}"
