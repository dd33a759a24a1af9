"""The explorer's jobs: what runs beside the notebook, what is said of it, and what goes wrong."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import traitlets

from nbquant.widgets.background import Job, Report, Slot


class Jobs:
    """Jobs that run in slots beside each other, and one lock for all that they and the inputs change.

    Each job and each input has a message of its own, so that none hides behind the success of another.

    Attributes:
        lock: Held while a result is taken over or a message told.
    """

    def __init__(
        self, slots: Sequence[str], show: Callable[[str, float], None], show_error: Callable[[str], None]
    ) -> None:
        """Make the slots.

        Args:
            slots: Their names; of several under way, the first is told of.
            show: Gets what is under way in words, "" for nothing, and the part that is done, negative if unknown.
            show_error: Gets all messages of errors, "" if there are none.
        """
        self.lock = threading.RLock()
        self._slots = {name: Slot(name) for name in slots}
        self._under_way: dict[str, tuple[str, float]] = {}
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
        begun = time.monotonic()

        def finished(result: Any) -> None:
            with self.lock, self.reporting(slot):
                done(result)
            self._settle(slot)

        def failed(error: Exception) -> None:
            with self.lock:
                self.tell(slot, message_of(error))
            self._settle(slot)

        def reported(done: int, total: int | None) -> None:
            if time.monotonic() - begun < quiet:
                return
            with self.lock:
                self._under_way[slot] = activity, done / total if total else -1.0
                self._show_activity()

        reported(0, None)
        self._slots[slot].start(Job(work, finished, failed, lambda: self._settle(slot), reported))

    def busy(self, slot: str) -> bool:
        """Whether a job of this slot is under way or waiting."""
        return self._slots[slot].busy

    def cancel(self, *slots: str) -> None:
        """Stop what is under way in these slots, or in all."""
        for slot in slots or self._slots:
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
        self._show_error("; ".join(m for m in self._errors.values() if m))

    def _settle(self, slot: str) -> None:
        with self.lock:
            self._under_way.pop(slot, None)
            self._show_activity()

    def _show_activity(self) -> None:
        self._show(*next((self._under_way[s] for s in self._slots if s in self._under_way), ("", -1.0)))


def message_of(error: Exception) -> str:
    """One line for the user; our own errors say it all, others get their type."""
    text = " ".join(str(error).split())
    ours = isinstance(error, ValueError | TypeError | traitlets.TraitError)
    ours = ours or (isinstance(error, OSError) and error.errno is None)  # the system's own have a number
    return text if ours and text else f"{type(error).__name__}: {text}"
