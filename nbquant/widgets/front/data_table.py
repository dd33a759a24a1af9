"""A small table that sorts, takes a mouse and keys, and can be read out."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import traitlets

Kind = Literal["text", "number", "bar", "check", "action"]
FORMATS: dict[str, tuple[str, str]] = {  # kind -> what its format must match, and the one it has by itself
    "text": ("(code)?", ""),
    "number": (r"\+?,?(\.\d+)?[dfge%]", ".4g"),
    "bar": (r"\+?,?(\.\d+)?[dfge%]", ".1%"),
    "check": ("", ""),
    "action": ("", ""),
}


@dataclass(frozen=True)
class Column:
    """What a column shows.

    Attributes:
        name: Key of its values in the rows; of an "action", what :attr:`DataTable.pressed` calls it.
        label: Header; of an "action", the text of its buttons as well.
        kind: "text"; "number"; "bar", a number with a bar of its length behind it, full at 1; "check", boxes that show
            and change :attr:`DataTable.checked`; "action", a button in rows whose value is true, or is its text.
        format: Of numbers, Python's format specification as far as [+][,][.digits] and one of d, f, g, e and % go; ""
            is ".4g" of a number and ".1%" of a bar. Of text, "code" for a fixed width.
        tooltip: What it means, in a sentence.
        unit: Unit, shown with the header.

    Raises:
        ValueError: An unknown kind, or a format that the kind does not have.
    """

    name: str
    label: str
    kind: Kind = "text"
    format: str = ""
    tooltip: str = ""
    unit: str = ""

    def __post_init__(self) -> None:
        if self.kind not in FORMATS:
            raise ValueError(f"kind must be one of {', '.join(FORMATS)}, but {self.kind!r} was given.")
        pattern, usual = FORMATS[self.kind]
        if not self.format:
            object.__setattr__(self, "format", usual)
        elif not re.fullmatch(pattern, self.format):
            raise ValueError(
                f"format of a {self.kind} must match {pattern or 'nothing'}, but {self.format!r} was given for "
                f"{self.name!r}."
            )


class DataTable(traitlets.HasTraits):
    """A table whose rows have keys, by which they are focused, checked and told apart when they change.

    Arrows move between rows, Enter or a click focuses one, Space checks it. Sorting, formatting and the CSV file are
    the front end's; the kernel hears of keys only. A table is part of a widget: see :meth:`join`.

    Attributes:
        columns: What is shown, from left to right.
        rows: One mapping each, column name -> value, in the order they have unsorted; what is None or not a number is
            shown as a dash and sorted last.
        key: Name of the value by which a row is known, a text; it need not be shown.
        caption: What the table shows; it names the CSV file too.
        sorted_by: {} or {"name", "descending"}.
        focused: Key of the row chosen, or "".
        checked: Keys of the rows checked, in the order of ``rows``.
        hovered: Key of the row under the mouse or the keyboard's focus, or "".
        pressed: The last button pressed: "key", "action", and "serial", which counts; empty before the first.
    """

    columns = traitlets.List(traitlets.Instance(Column))
    rows = traitlets.List(traitlets.Dict())
    key = traitlets.Unicode("name", read_only=True)
    caption = traitlets.Unicode()
    sorted_by = traitlets.Dict()
    focused = traitlets.Unicode()
    checked = traitlets.List(traitlets.Unicode())
    hovered = traitlets.Unicode()
    pressed = traitlets.Dict()

    def __init__(
        self,
        columns: Iterable[Column],
        rows: Iterable[Mapping[str, Any]] = (),
        caption: str = "",
        key: str = "name",
        **chosen: Any,
    ) -> None:
        """Make a table.

        Args:
            columns: What is shown.
            rows: Its values; settable later.
            caption: What the table shows.
            key: Name of the value by which a row is known.
            **chosen: First values of other traits, such as ``checked``.

        Raises:
            ValueError: Column names or keys that come twice, more than one column of checks.
            TypeError: A key that is no text.
        """
        self.set_trait("key", key)
        super().__init__(columns=list(columns), rows=list(rows), caption=caption, **chosen)

    def join(self, widget: traitlets.HasTraits, prefix: str) -> None:
        """Make the table part of a widget, whose front end draws it.

        Args:
            widget: Gets a synced trait ``{prefix}_{name}`` for each trait of the table. Those that the user changes
                (``sorted_by``, ``focused``, ``checked``, ``hovered``, ``pressed``) are linked both ways.
            prefix: An identifier.
        """
        given: dict[str, Callable[[], Any]] = {"key": lambda: self.key, "caption": lambda: self.caption}
        given |= {"columns": lambda: [asdict(column) for column in self.columns], "rows": self._by_column}
        chosen = ("sorted_by", "focused", "checked", "hovered", "pressed")
        own: dict[str, Any] = {name: traitlets.Any(value()).tag(sync=True) for name, value in given.items()}
        own |= {name: self.traits()[name].__class__(getattr(self, name)).tag(sync=True) for name in chosen}
        widget.add_traits(**{f"{prefix}_{name}": trait for name, trait in own.items()})
        for name in chosen:  # not by traitlets.link, which refuses that one side reacts with another value
            there = f"{prefix}_{name}"
            self.observe(lambda _, name=name, there=there: widget.set_trait(there, getattr(self, name)), name)
            widget.observe(lambda _, name=name, there=there: self.set_trait(name, getattr(widget, there)), there)
        # Other columns need other values of the rows.
        for name, sources in {"caption": "caption", "columns": "columns", "rows": ["columns", "rows"]}.items():
            self.observe(lambda _, name=name: widget.set_trait(f"{prefix}_{name}", given[name]()), sources)

    @traitlets.validate("columns")
    def _check_columns(self, proposal: Any) -> list[Column]:
        columns: list[Column] = proposal["value"]
        names = [column.name for column in columns]
        if len(set(names)) < len(names):
            raise ValueError(f"column names must be distinct, but {', '.join(names)} came.")
        if sum(column.kind == "check" for column in columns) > 1:
            raise ValueError('one column may be of kind "check", but several are.')
        return columns

    @traitlets.validate("rows")
    def _check_rows(self, proposal: Any) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = proposal["value"]
        seen: set[str] = set()
        for row in rows:
            key = row.get(self.key)
            if not isinstance(key, str) or not key:
                raise TypeError(f"every row must have a text under {self.key!r}, its key, but {key!r} came.")
            if key in seen:
                raise ValueError(f"keys of rows must be distinct, but {key!r} came twice.")
            seen.add(key)
        return rows

    def _by_column(self) -> dict[str, list[Any]]:
        """Names once and not once a row: a fifth of the bytes."""
        names = dict.fromkeys([self.key, *(column.name for column in self.columns)])
        return {name: [_plain(row.get(name)) for row in self.rows] for name in names}


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
    return value
