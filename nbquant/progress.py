"""Progress bars and cancellation of long computations."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm.auto import tqdm

QUIET = 0.5  # s before a bar is shown: shorter work needs none

T = TypeVar("T")

Progress = bool | Callable[[int, int | None], None]
"""True shows a bar after half a second, False none; a callable gets (done, total), and may raise to cancel."""


class Cancelled(Exception):  # noqa: N818  (not an error: the user asked for it)
    """The user cancelled the work; nothing was changed."""


def track(items: Iterable[T], description: str, progress: Progress = True, total: int | None = None) -> Iterator[T]:
    """Yield from ``items`` and show progress.

    Args:
        items: What to iterate over.
        description: Label of the bar.
        progress: See :data:`Progress`.
        total: Number of items, if ``len(items)`` is unknown.

    Raises:
        Cancelled: Raised by the callable on the user's request.
    """
    if total is None:
        try:
            total = len(items)  # type: ignore[arg-type]
        except TypeError:
            total = None
    if not callable(progress):
        yield from tqdm(items, desc=description, total=total, disable=not progress, leave=False, delay=QUIET)
        return
    done = 0
    progress(done, total)
    for item in items:
        yield item
        done += 1
        progress(done, total)
