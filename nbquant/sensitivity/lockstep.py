"""Lockstep runs of a network on several batches, which wait for each other wherever a weight is used."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Stop = Callable[[str, Any], None]
"""Called in a run to pause it, with a key and the values found there."""


class Runs:
    """Functions of one argument each, run one at a time; each pauses at its own calls."""

    def __init__(self, functions: Sequence[Callable[[Stop], None]]) -> None:
        """Prepare the runs; none has begun."""
        self._runs = [_Run(function) for function in functions]

    def pauses(self, order: Callable[[str], int]) -> Iterator[tuple[str, dict[int, Any]]]:
        """Yield the keys at which runs pause, the earliest first, with each run's value there, by its index.

        All runs paused at a key continue once the caller asks for the next key.

        Args:
            order: Position of a key.

        Raises:
            Exception: Any exception of a run.
        """
        try:
            for run in self._runs:
                run.go_on()
            while waiting := {i: run for i, run in enumerate(self._runs) if run.key is not None}:
                key = min((run.key for run in waiting.values() if run.key is not None), key=order)
                here = {i: run for i, run in waiting.items() if run.key == key}
                yield key, {i: run.found for i, run in here.items()}
                for run in here.values():
                    run.go_on()
        finally:
            for run in self._runs:
                run.end()


class _Ended(BaseException):
    """The caller has abandoned the run."""


class _Run:
    def __init__(self, function: Callable[[Stop], None]) -> None:
        self.key: str | None = None
        self.found: Any = None
        self._function, self._thread = function, threading.Thread(target=self._work, name="nbquant-run", daemon=True)
        self._go, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        self._ended = False
        self._error: BaseException | None = None

    def go_on(self) -> None:
        """Continue the run until it pauses or ends."""
        self.key = self.found = None
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._go.release()
        self._paused.acquire()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def end(self) -> None:
        """End a run that may be paused."""
        self._ended = True
        if self._thread.is_alive():
            self._go.release()
            self._thread.join()

    def _stop(self, key: str, found: Any) -> None:
        self.key, self.found = key, found
        self._paused.release()
        self._go.acquire()
        if self._ended:
            raise _Ended

    def _work(self) -> None:
        try:
            self._function(self._stop)
        except _Ended:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self.key = None
            self._paused.release()
