"""Look up one of several records by its name."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Protocol, TypeVar


class Named(Protocol):
    """What has a name."""

    @property
    def name(self) -> str: ...  # noqa: D102


Record = TypeVar("Record", bound=Named)


def find(records: Sequence[Record], name: object, what: str) -> Record:
    """Find the record of a name.

    Args:
        records: All records.
        name: The name.
        what: What it is the name of, for the message.

    Raises:
        ValueError: There is none of this name (names all, and the nearest).
    """
    for record in records:
        if record.name == name:
            return record
    known = [record.name for record in records]
    raise ValueError(f"{what} must be one of {', '.join(known)}, but got {name!r}{nearest(name, known)}")


def nearest(name: object, known: Sequence[str]) -> str:
    """A question that ends a message: the known names that are like one, if any."""
    close = get_close_matches(str(name), known)
    return f": did you mean {' or '.join(map(repr, close))}?" if close else ""
