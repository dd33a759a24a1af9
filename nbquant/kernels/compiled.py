"""Compilation of loops by numba, and warnings given once per process."""

import os
import threading
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

try:
    import numba
except Exception as error:  # mostly an ImportError, but a broken LLVM has others
    raise ImportError(
        f"nbquant needs numba, but it cannot be imported ({type(error).__name__}: {error}): install it "
        "(pip install --upgrade numba) beside a Python and a NumPy that it supports."
    ) from error

F = TypeVar("F", bound=Callable[..., Any])

_said: set[str] = set()
_lock = threading.Lock()


def _unlock_in_child() -> None:
    """Replace a lock held by a thread that does not exist in the forked process."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_in_child)


def compiled(inline: bool = False) -> Callable[[F], F]:
    """Compile a loop that releases the GIL.

    Args:
        inline: Whether to compile it into its callers.
    """

    def decorate(function: F) -> F:
        # With numpy's rules for x/0 there are no exceptions to compile, nor are there callers from C.
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
        options["inline"] = "always" if inline else "never"
        try:
            made: F = numba.njit(cache=True, **options)(function)
        except RuntimeError:  # no writable folder for the cache
            made = numba.njit(**options)(function)
        return made

    return decorate


def say_once(message: str) -> None:
    """Warn once per process about something slow."""
    with _lock:
        if message in _said:
            return
        _said.add(message)
    warnings.warn(message, RuntimeWarning, stacklevel=3)
