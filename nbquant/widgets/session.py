"""What a user chose and pinned in the explorer, as JSON."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import traitlets

from nbquant.quantization.selection import Selection
from nbquant.tensorfile import parse_json, replacing
from nbquant.version import VERSION
from nbquant.widgets.jobs import message_of
from nbquant.widgets.pins import Pin
from nbquant.widgets.settings import Settings

if TYPE_CHECKING:
    from nbquant.widgets.state import ExplorerState

FORMAT = 1
MOST_BYTES = 4 << 20
ALONGSIDE = ("epochs", "density", "path")
"""Inputs that are kept but that nothing follows from before a button is pressed."""

VIEW = ("focus", "log_count", "pooling", "size")
"""Inputs that say how it is looked at."""


@dataclass(frozen=True)
class Session:
    """A session that was checked.

    Attributes:
        settings: The settings.
        alongside: Values of :data:`ALONGSIDE`, and of the view; those that were given.
        pins: The pins; None if none were given, not even an empty list.
    """

    settings: Settings
    alongside: Mapping[str, Any]
    pins: tuple[Pin, ...] | None


def session(state: "ExplorerState") -> dict[str, Any]:
    """The session of a state, as plain values."""
    return {
        "nbquant": VERSION,
        "format": FORMAT,
        "inputs": state.settings.to_json() | {name: getattr(state, name) for name in ALONGSIDE},
        "pins": [pin.to_json() for pin in state.pins],
        "view": {name: getattr(state, name) for name in VIEW},
    }


def write_session(values: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a session to a file, or replace it as a whole.

    Raises:
        OSError: The folder is not there, is read-only or full.
    """
    with replacing(Path(path)) as partial:
        partial.write_text(json.dumps(values, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def read_session(
    source: Mapping[str, Any] | bytes | str | os.PathLike[str],
    state: "ExplorerState",
    select: Callable[[tuple[str, ...]], Selection],
) -> Session:
    """Read and check a session; nothing is taken over.

    Args:
        source: As :func:`session` gives it, as JSON, or the path of a file that holds that. Inputs that are not in it
            stay as they are.
        state: What it is for.
        select: Selects layers, or raises if the state does not have them.

    Raises:
        ValueError: What does not fit, and why.
        OSError: A file that is not there or cannot be read.
    """
    if isinstance(source, Mapping):
        values = dict(source)
    else:
        values = _parsed(source, "") if isinstance(source, bytes) else _read(Path(source))
    made_by = values.get("format")
    if isinstance(made_by, bool) or not isinstance(made_by, int) or made_by < 1:
        raise ValueError(f"a session must name its format, a whole number from 1, but has {made_by!r}")
    if made_by > FORMAT:
        raise ValueError(f"format {FORMAT} is the newest that is known here, but the session has {made_by}: update")
    unknown = values.keys() - {"nbquant", "format", "inputs", "pins", "view"}
    if unknown:
        raise ValueError(f"a session must have inputs, pins and view, but has {min(map(str, unknown))!r}")
    inputs, view = (_object(values.get(name, {}), name) for name in ("inputs", "view"))
    alongside = {name: _value(state, name, inputs.pop(name)) for name in ALONGSIDE if name in inputs}
    for name in view:
        if name not in VIEW:
            raise ValueError(f"the view of a session has {', '.join(VIEW)}, but {name!r} came")
        alongside[name] = _value(state, name, view[name])
    settings = state.settings.updated(inputs)
    parameters = [t.name for t in select(settings.layers)]
    if alongside.get("focus", parameters[0]) not in parameters:
        raise ValueError(f"focus must be a parameter of the selected layers, but is {alongside['focus']!r}")
    pins = values.get("pins")
    if pins is not None and not isinstance(pins, list | tuple):
        raise ValueError(f"the pins of a session must be a list, but are a {type(pins).__name__}")
    found = None if pins is None else tuple(Pin.of_json(pin, state.settings) for pin in pins)
    return Session(settings, alongside, found)


def _read(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return _parsed(file.read(MOST_BYTES + 1), f" ({path.name!r})")


def _parsed(raw: bytes, name: str) -> dict[str, Any]:
    if len(raw) > MOST_BYTES:
        raise ValueError(f"a session has at most {MOST_BYTES:,} bytes, but this{name} has more: name another file")
    return parse_json(raw, f"a session{name}")


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} of a session must be an object, but is a {type(value).__name__}")
    return dict(value)


def _value(state: "ExplorerState", name: str, value: Any) -> Any:
    """The value as the input of this name takes it."""
    trait = state.traits()[name]
    try:
        if isinstance(value, float) and not -1e300 < value < 1e300:
            raise traitlets.TraitError("it is not finite")
        return trait._validate(state, value)
    except traitlets.TraitError as error:
        raise ValueError(f"{name} cannot be {value!r}: {message_of(error)}"[:400]) from None
