"""Write and read sessions: inputs, pins and view of the explorer, as JSON."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbquant.quantization.selection import Selection
from nbquant.replacing import replacing
from nbquant.tensorfile import parse_json
from nbquant.version import VERSION
from nbquant.widgets.kinds import AMOUNT
from nbquant.widgets.settings import Settings
from nbquant.widgets.state.pins import Pin, require_density

FORMAT = 1
MOST_BYTES = 4 << 20
ALONGSIDE = ("epochs", "density", "path")
"""Inputs of jobs, which take effect when a button is pressed."""

VIEW = (
    *("focus", "bars", "log_count", "axis", "pooling", "size", "measure_at_rest"),
    *("all_formats", "quantized_file", "file_tensor"),
)
"""Inputs of the view."""


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


def session(
    settings: Settings, values: Mapping[str, Any], pins: Iterable[Pin], density: float | None
) -> dict[str, Any]:
    """Put together a session, as plain values.

    Args:
        settings: The settings.
        values: Values of :data:`ALONGSIDE` and :data:`VIEW`.
        pins: The pins.
        density: Density that the model was pruned to; None if it was not.
    """
    return {
        "nbquant": VERSION,
        "format": FORMAT,
        **({} if density is None else {"pruned": density}),
        "inputs": settings.to_json() | {name: values[name] for name in ALONGSIDE},
        "pins": [pin.to_json() for pin in pins],
        "view": {name: values[name] for name in VIEW},
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
    settings: Settings,
    checked: Callable[[str, Any], Any],
    select: Callable[[tuple[str, ...]], Selection],
    density: float | None,
) -> Session:
    """Read and check a session; nothing is taken over.

    Args:
        source: As :func:`session` gives it, as JSON, or the path of a file that holds that. Inputs that are not in it
            stay as they are.
        settings: Settings that stand for those that are not in it.
        checked: checked(name, value) gives the value as the input of this name takes it, or raises.
        select: Selects layers, or raises if the state does not have them.
        density: Density that the model in use was pruned to; None if it was not.

    Raises:
        ValueError: What does not fit, and why.
        OSError: A file that is not there or cannot be read.
    """
    if isinstance(source, Mapping):
        values = dict(source)
    elif isinstance(source, bytes):
        values = _parsed(source, "")
    elif isinstance(source, str) and source.lstrip().startswith("{"):
        values = _parsed(source.encode(), "")
    elif isinstance(source, str | os.PathLike):
        values = _read(Path(source))
    else:
        raise ValueError(f"a session must be a mapping, JSON or the path of a file, but is a {type(source).__name__}")
    made_by = values.get("format")
    if isinstance(made_by, bool) or not isinstance(made_by, int) or made_by < 1:
        raise ValueError(f"a session must name its format, a whole number from 1, but has {made_by!r}")
    if made_by > FORMAT:
        raise ValueError(f"format {FORMAT} is the newest that is known here, but the session has {made_by}: update")
    unknown = values.keys() - {"nbquant", "format", "pruned", "inputs", "pins", "view"}
    if unknown:
        raise ValueError(f"a session must have inputs, pins and view, but has {min(map(str, unknown))!r}")
    pruned = values.get("pruned")
    if not (pruned is None or (AMOUNT.fits(pruned) and 0 < pruned <= 1)):
        raise ValueError(f"pruned of a session must be a density in (0, 1], but is {pruned!r}"[:300])
    require_density("the session", pruned, density)
    inputs, view = (_object(values.get(name, {}), name) for name in ("inputs", "view"))
    alongside = {name: checked(name, inputs.pop(name)) for name in ALONGSIDE if name in inputs}
    for name in view:
        if name not in VIEW:
            raise ValueError(f"the view of a session has {', '.join(VIEW)}, but {name!r} came")
        alongside[name] = checked(name, view[name])
    wanted = settings.updated(inputs)
    parameters = [t.name for t in select(wanted.layers)]
    if alongside.get("focus", parameters[0]) not in parameters:
        raise ValueError(f"focus must be a parameter of the selected layers, but is {alongside['focus']!r}")
    pins = values.get("pins")
    if pins is not None and not isinstance(pins, list | tuple):
        raise ValueError(f"the pins of a session must be a list, but are a {type(pins).__name__}")
    found = None if pins is None else tuple(Pin.of_json(pin, settings) for pin in pins)
    return Session(wanted, alongside, found)


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ValueError(f"there is no session file {str(path)!r}: save one first, or name another.")
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
