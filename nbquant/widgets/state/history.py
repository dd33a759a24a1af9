"""Record settings for undo and redo."""

import time
from collections.abc import Callable

from nbquant.widgets.settings import Settings

DRAG = 1.0  # s within which changes of one input are one step
MOST_STEPS = 500


class History:
    """Settings that were, and those that were undone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with none; ``clock`` tells the time [s]."""
        self._past: list[Settings] = []
        self._future: list[Settings] = []
        self._clock = clock
        self._last: tuple[str, float] | None = None  # input that was changed last, and when

    @property
    def can_undo(self) -> bool:
        """Whether there is something to go back to."""
        return bool(self._past)

    @property
    def can_redo(self) -> bool:
        """Whether something was undone, and nothing else done since."""
        return bool(self._future)

    def record(self, before: Settings, step: str = "") -> None:
        """Remember the settings before a change.

        Args:
            before: The settings that were.
            step: Name of the one input that changed; its further changes soon after belong to the same step. "" is a
                change of several, which is a step of its own.
        """
        now = self._clock()
        drag = bool(step) and self._last is not None and self._last[0] == step and now - self._last[1] <= DRAG
        if not drag:
            self._past = [*self._past[1 - MOST_STEPS :], before]
        self._future = []
        self._last = (step, now) if step else None

    def undo(self, now: Settings) -> Settings | None:
        """The settings before the last step; None if there was none."""
        return self._go(self._past, self._future, now)

    def redo(self, now: Settings) -> Settings | None:
        """The settings that were undone last; None if there are none."""
        return self._go(self._future, self._past, now)

    def _go(self, source: list[Settings], other: list[Settings], now: Settings) -> Settings | None:
        self._last = None
        if not source:
            return None
        other.append(now)
        return source.pop()
