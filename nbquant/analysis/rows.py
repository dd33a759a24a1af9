"""Append-only file of result rows: written rows survive if the writer is killed."""

import json
import os
from pathlib import Path
from typing import Any

Row = dict[str, Any]
MOST_BYTES = 1 << 30


class RowFile:
    """Rows by key, one line of JSON each.

    A line counts once its line end is written; a torn last line is overwritten. One writer at a time.

    Args:
        path: Created, with its folders, if it does not exist.

    Raises:
        ValueError: A file with other content, or of more than 2³⁰ bytes.
        OSError: A file that cannot be read or written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a+b")
        try:
            self.rows = self._read()
        except BaseException:
            self._file.close()
            raise

    def add(self, key: str, row: Row) -> None:
        """Write a row and flush it to disk."""
        self._file.write(json.dumps({"key": key, **row}, allow_nan=True).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.rows[key] = row

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read(self) -> dict[str, Row]:
        size = os.fstat(self._file.fileno()).st_size
        if size > MOST_BYTES:
            raise ValueError(f"a file of rows has at most {MOST_BYTES} bytes, but {str(self._path)!r} has {size}")
        self._file.seek(0)
        data = self._file.read()
        *lines, torn = data.split(b"\n")
        rows = dict(self._parse(line, number) for number, line in enumerate(lines, start=1))
        if torn:
            if not (torn.startswith(b'{"key"'[: len(torn)])):
                raise self._other(len(lines) + 1)
            self._file.truncate(size - len(torn))
        return rows

    def _parse(self, line: bytes, number: int) -> tuple[str, Row]:
        try:
            row = json.loads(line)
            return row.pop("key"), row
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise self._other(number) from None

    def _other(self, line: int) -> ValueError:
        return ValueError(
            f"rows written by nbquant.sweep are required, but line {line} of {str(self._path)!r} is none: "
            "name another path, or delete the line."
        )
