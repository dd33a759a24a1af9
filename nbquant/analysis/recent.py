"""The most recently used of some values."""

import os
import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, Generic, TypeVar
from weakref import WeakSet

T = TypeVar("T")
_every: "WeakSet[Recent[Any]]" = WeakSet()


class Recent(Generic[T]):
    """Values by key, of which the least recently used are forgotten; for several threads."""

    def __init__(self, most: int) -> None:
        self._most, self._values, self._lock = most, OrderedDict[Hashable, T](), threading.Lock()
        _every.add(self)

    def unlock(self) -> None:
        """Forget a lock that a thread held which a forked process does not have."""
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> T | None:
        """The value, or None if it is not known or forgotten."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def keep(self, key: Hashable, value: T) -> T:
        """Remember a value; returns it."""
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
