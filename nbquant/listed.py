"""Names in messages."""

from collections.abc import Iterable


def listed(names: Iterable[str], most: int = 8) -> str:
    """The first few names, and how many there are besides."""
    quoted = [repr(name) for name in names]
    return ", ".join(quoted[:most]) + (f" and {len(quoted) - most} more" if len(quoted) > most else "")
