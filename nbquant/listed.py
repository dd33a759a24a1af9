"""Formatting of lists of names in messages."""

from collections.abc import Iterable


def listed(names: Iterable[str], most: int = 8) -> str:
    """List the first few names, and count the others."""
    quoted = [repr(name) for name in names]
    return ", ".join(quoted[:most]) + (f" and {len(quoted) - most} more" if len(quoted) > most else "")
