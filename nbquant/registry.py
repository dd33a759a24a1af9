"""Look-up of records by name, with suggestions for misspelled names."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Protocol, TypeVar


class Named(Protocol):
    """A record with a name."""

    @property
    def name(self) -> str: ...  # noqa: D102


Record = TypeVar("Record", bound=Named)


def find(records: Sequence[Record], name: object, what: str) -> Record:
    """Find the record with a name.

    Args:
        records: All records.
        name: The name.
        what: Kind of record, for the message.

    Raises:
        ValueError: An unknown name (lists all, and the nearest).
    """
    for record in records:
        if record.name == name:
            return record
    known = [record.name for record in records]
    raise ValueError(f"{what} must be one of {', '.join(known)}, but got {name!r}{nearest(name, known)}")


def nearest(name: object, known: Sequence[str]) -> str:
    """End a message with the question whether a similar known name was meant, if there is one."""
    close = get_close_matches(str(name), known) or get_close_matches(str(name).lower(), known)
    return f": did you mean {' or '.join(map(repr, close))}?" if close else ""
