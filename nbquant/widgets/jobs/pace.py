"""Estimate how fast a job runs and how long it will take, from its reports."""

import time
from collections.abc import Callable

WINDOW = 4.0  # s over which the rate is averaged, roughly
APART = 0.25  # s between two looks at it


class Pace:
    """The pace of one job, from what it reports."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Know nothing yet; ``clock`` tells the time [s]."""
        self._clock = clock
        self._total: float | None = None
        self._seen = (0.0, 0.0)  # done, and when
        self._rate: float | None = None

    def told(self, done: float, total: float | None) -> str:
        """Take in a report; "12 of 40, 3.1/s, 9 s left", as far as that is known.

        A float ``total`` is an estimate, which may change as the job goes on: "30 %, 9 s left".
        """
        now = self._clock()
        if not total:
            return str(done) if done else ""
        counts = isinstance(total, int)
        if done < self._seen[0] or (counts and total != self._total):  # something else is counted now
            self._seen, self._rate = (done, now), None
        self._total = total
        passed = now - self._seen[1]
        if done > self._seen[0] and passed >= APART:
            rate = (done - self._seen[0]) / passed
            fresh = min(passed / WINDOW, 1.0)
            self._rate = rate if self._rate is None else (1 - fresh) * self._rate + fresh * rate
            self._seen = done, now
        parts = [f"{done:,} of {total:,}" if counts else f"{100 * done / total:.0f} %"]
        if self._rate is not None:
            if counts:
                parts.append(f"{self._rate:.3g}/s" if self._rate < 1000 else f"{self._rate:,.0f}/s")
            if done < total:
                parts.append(f"{duration((total - done) / self._rate)} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 1:
        return "under 1 s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
