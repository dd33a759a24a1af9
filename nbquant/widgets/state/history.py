"""Record moments for undo and redo."""

import time
from collections.abc import Callable

from nbquant.widgets.state.moment import Moment

DRAG = 1.0  # s within which changes of one input are one step
MOST_STEPS = 500
MOST_HEAVY = 6  # pruned models and fine-tuned results that are kept for the sake of undo


class History:
    """Moments that were, and those that were undone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with none; ``clock`` tells the time [s]."""
        self._past: list[Moment] = []
        self._future: list[Moment] = []
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

    def record(self, before: Moment, step: str = "") -> None:
        """Remember the moment before a change.

        Args:
            before: What was.
            step: Name of the one input that changed; its further changes soon after belong to the same step. "" is a
                change of several, which is a step of its own.
        """
        now = self._clock()
        drag = bool(step) and self._last is not None and self._last[0] == step and now - self._last[1] <= DRAG
        if not drag:
            self._past = _lightened([*self._past[1 - MOST_STEPS :], before])
        self._future = []
        self._last = (step, now) if step else None

    def undo(self, now: Moment) -> Moment | None:
        """The moment before the last step; None if there was none."""
        return self._go(self._past, self._future, now)

    def redo(self, now: Moment) -> Moment | None:
        """The moment that was undone last; None if there is none."""
        return self._go(self._future, self._past, now)

    def _go(self, source: list[Moment], other: list[Moment], now: Moment) -> Moment | None:
        self._last = None
        if not source:
            return None
        other.append(now)
        return source.pop()


def _lightened(moments: list[Moment]) -> list[Moment]:
    """The newest moments that hold at most :data:`MOST_HEAVY` heavy things among them."""
    seen: set[int] = set()
    for i in range(len(moments) - 1, -1, -1):
        seen.update(map(id, moments[i].heavy()))
        if len(seen) > MOST_HEAVY:
            return moments[i + 1 :]
    return moments
