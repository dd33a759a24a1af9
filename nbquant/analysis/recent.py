"""A small thread-safe cache of the most recently used values."""

import os
import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, Generic, TypeVar
from weakref import WeakSet

T = TypeVar("T")
_every: "WeakSet[Recent[Any]]" = WeakSet()


class Recent(Generic[T]):
    """Values by key; the least recently used are dropped. Thread-safe."""

    def __init__(self, most: int) -> None:
        self._most, self._values, self._lock = most, OrderedDict[Hashable, T](), threading.Lock()
        _every.add(self)

    def unlock(self) -> None:
        """Replace a lock held by a thread that does not exist in the forked process."""
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> T | None:
        """Look up a value; None if it is unknown or dropped."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def keep(self, key: Hashable, value: T) -> T:
        """Store a value and return it."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._most:
                self._values.popitem(last=False)
        return value


def _unlock_in_child() -> None:
    for recent in list(_every):
        recent.unlock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_in_child)
