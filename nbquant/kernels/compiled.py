"""Compilation of loops by numba; without it they run as plain Python, or as NumPy where that would take too long.

Importing numba fails on versions of Python or NumPy that it does not support, and on machines without LLVM.
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
    """Replace a lock held by a thread that does not exist in the forked process."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_in_child)


def compiled(instead: Callable[..., Any] | None = None, inline: bool = False) -> Callable[[F], F]:
    """Compile a loop that releases the GIL.

    Args:
        instead: Replacement if it cannot be compiled; None for the function itself, interpreted.
        inline: Whether to compile it into its callers.
    """

    def decorate(function: F) -> F:
        if numba is None:
            return _interpreted(instead or function)
        options = {"nogil": True, "inline": "always" if inline else "never"}
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # no writable folder for the cache
            return numba.njit(**options)(function)

    return decorate


def _interpreted(function: Callable[..., Any]) -> Any:
    """Run a loop interpreted; like compiled code it wraps around and divides by zero without warnings."""

    @functools.wraps(function)
    def run(*arguments: Any) -> Any:
        say_not_compiled()
        with np.errstate(all="ignore"):
            return function(*arguments)

    return run


def say_not_compiled() -> None:
    """Warn once that numba is missing."""
    say_once(
        f"numba cannot be used here ({WHY_NOT}): torch, NumPy and plain Python replace it. Results are the same up to "
        "rounding, but take ten times as long, or more. For compiled loops, install numba (pip install --upgrade "
        "numba) with a Python and a NumPy that it supports, and restart."
    )


def say_once(message: str) -> None:
    """Warn once per process about something slow."""
    with _lock:
        if message in _said:
            return
        _said.add(message)
    warnings.warn(message, RuntimeWarning, stacklevel=3)
