"""Refuse all tensors that a file format cannot hold in one message."""

from collections.abc import Callable, Mapping
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")

MOST_NAMED = 8


def convert_all(tensors: Mapping[str, In], convert: Callable[[str, In], Out]) -> dict[str, Out]:
    """Convert all tensors by name.

    Args:
        tensors: The tensors.
        convert: convert(name, tensor) raises ValueError for one that does not fit.

    Raises:
        ValueError: What is wrong with the first that does not fit, and the names of the others.
    """
    found: dict[str, Out] = {}
    unfit: dict[str, ValueError] = {}
    for name, tensor in tensors.items():
        try:
            found[name] = convert(name, tensor)
        except ValueError as error:
            unfit[name] = error
    if not unfit:
        return found
    (_, first), *others = unfit.items()
    if not others:
        raise first
    named = ", ".join(repr(name) for name, _ in others[:MOST_NAMED])
    more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
    verb = "does" if len(others) == 1 else "do"
    raise ValueError(f"{str(first).removesuffix('.')}. {named}{more} {verb} not fit either.") from first
