"""Numba's compiler where there is one; elsewhere loops are plain Python, or NumPy where that would take too long.

Importing numba fails on a Python or a NumPy newer than it knows, and where there is no LLVM for the machine.
"""

import functools
import importlib
import os
import threading
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

F = TypeVar("F", bound=Callable[..., Any])

numba: Any = None
WHY_NOT = ""
try:
    numba = importlib.import_module("numba")
except Exception as error:  # mostly an ImportError, but a broken LLVM has others
    WHY_NOT = f"{type(error).__name__}: {error}"

AVAILABLE = numba is not None
"""Whether loops are compiled."""

_said: set[str] = set()
_lock = threading.Lock()


def _unlock_in_child() -> None:
    """Forget a lock that a thread held which a forked process does not have."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_in_child)


def compiled(instead: Callable[..., Any] | None = None, inline: bool = False) -> Callable[[F], F]:
    """Compile a loop; it releases the GIL.

    Args:
        instead: What stands for it where it cannot be compiled; None is the function itself, interpreted.
        inline: Whether to compile it into its callers.
    """

    def decorate(function: F) -> F:
        if numba is None:
            return _interpreted(instead or function)
        options = {"nogil": True, "inline": "always" if inline else "never"}
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # there is no folder for the cache that may be written to
            return numba.njit(**options)(function)

    return decorate


def _interpreted(function: Callable[..., Any]) -> Any:
    """What is compiled wraps around and divides by zero without a word, and so does this."""

    @functools.wraps(function)
    def run(*arguments: Any) -> Any:
        say_not_compiled()
        with np.errstate(all="ignore"):
            return function(*arguments)

    return run


def say_not_compiled() -> None:
    """Warn that numba is missing, the first time."""
    say_once(
        f"numba cannot be used here ({WHY_NOT}): torch, NumPy and plain Python do its work. Results are the same up to "
        "rounding, but take ten times as long, or more. To have compiled loops, install numba (pip install --upgrade "
        "numba) beside a Python and a NumPy that it supports, and restart."
    )


def say_once(message: str) -> None:
    """Warn of what makes things slow, once in a process."""
    with _lock:
        if message in _said:
            return
        _said.add(message)
    warnings.warn(message, RuntimeWarning, stacklevel=3)
