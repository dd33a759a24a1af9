"""The wire format of Protocol Buffers: fields of a message, read from mapped bytes, and their encoding.

Only positions are read, so that a message of gigabytes costs no memory, and no length in it is believed before the
bytes are there.

Source: the encoding of Protocol Buffers, as published.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt64

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Kinds of fields."""
MOST_TEXT = 1 << 16  # bytes of a text
_MOST_VARINT = 10  # bytes


class DamagedMessageError(ValueError):
    """Bytes that are no message; the caller adds the file."""


@dataclass(frozen=True)
class Field:
    """A field of a message.

    Attributes:
        number: Its number.
        kind: Its kind.
        value: Value of a varint; 0 for other kinds.
        start: First byte of its content.
        end: Byte after it.
    """

    number: int
    kind: int
    value: int
    start: int
    end: int


@dataclass(frozen=True, eq=False)
class Message:
    """A message within mapped bytes."""

    data: mmap.mmap
    start: int
    end: int

    def fields(self) -> Iterator[Field]:
        """Read the fields in order.

        Raises:
            DamagedMessageError: A field that does not fit into the message, or of an unknown kind.
        """
        at = self.start
        while at < self.end:
            began = at
            tag, at = self._varint(at)
            number, kind = tag >> 3, tag & 7
            start, value = at, 0
            if kind == VARINT:
                value, at = self._varint(at)
            elif kind == BYTES:
                size, start = self._varint(at)
                at = start + size
            elif kind in (FIXED32, FIXED64):
                at += 4 if kind == FIXED32 else 8
            if number == 0 or kind not in (VARINT, FIXED64, BYTES, FIXED32) or at > self.end:
                raise DamagedMessageError(f"the field at byte {began:,} is damaged, or is cut at byte {self.end:,}")
            yield Field(number, kind, value, start, at)

    def part(self, field: Field) -> "Message":
        """Open a message that is a field of this one.

        Raises:
            DamagedMessageError: A field of another kind.
        """
        if field.kind != BYTES:
            raise DamagedMessageError(f"the field at byte {field.start:,} must be a message, but is a number")
        return Message(self.data, field.start, field.end)

    def text(self, field: Field) -> str:
        """Read a text.

        Raises:
            DamagedMessageError: A field of another kind, or of more than :data:`MOST_TEXT` bytes.
        """
        if field.kind != BYTES or field.end - field.start > MOST_TEXT:
            raise DamagedMessageError(
                f"the field at byte {field.start:,} must be a text of at most {MOST_TEXT:,} bytes"
            )
        return self.data[field.start : field.end].decode("utf-8", errors="replace")

    def text_of(self, number: int) -> str:
        """Read the first text under a number; "" if there is none.

        Raises:
            DamagedMessageError: As :meth:`text`.
        """
        return next((self.text(field) for field in self.fields() if field.number == number), "")

    def integers(self, field: Field) -> list[int]:
        """Read signed integers, one or several in a packed field.

        Raises:
            DamagedMessageError: A damaged field.
        """
        if field.kind == VARINT:
            return [_signed(field.value)]
        return [_signed(int(v)) for v in unpack_varints(np.frombuffer(self.data[field.start : field.end], np.uint8))]

    def _varint(self, at: int) -> tuple[int, int]:
        """An integer, and the byte after it."""
        value = 0
        for shift, byte in enumerate(self.data[at : min(at + _MOST_VARINT, self.end)]):
            value |= (byte & 127) << 7 * shift
            if byte < 128:
                return value & (1 << 64) - 1, at + shift + 1
        raise DamagedMessageError(f"the number at byte {at:,} is damaged, or is cut at byte {self.end:,}")


def unpack_varints(raw: np.ndarray) -> UInt64[np.ndarray, " n"]:
    """Decode integers that follow one another.

    Raises:
        DamagedMessageError: A number that is cut or too long.
    """
    ends = np.flatnonzero(raw < 128)
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    lengths = ends - starts + 1
    if (len(raw) and (not len(ends) or ends[-1] != len(raw) - 1)) or (len(ends) and lengths.max() > _MOST_VARINT):
        raise DamagedMessageError("a list of numbers is damaged")
    found = np.zeros(len(ends), np.uint64)
    for k in range(int(lengths.max()) if len(ends) else 0):
        longer = np.flatnonzero(lengths > k)
        found[longer] |= (raw[starts[longer] + k] & np.uint64(127)) << np.uint64(7 * k)
    return found


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def varint(value: int) -> bytes:
    """Encode an integer; a negative one in two's complement of 64 bits."""
    value &= (1 << 64) - 1
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)


def number_field(number: int, value: int) -> bytes:
    """Encode a field that holds an integer."""
    return varint(number << 3 | VARINT) + varint(value)


def bytes_head(number: int, size: int) -> bytes:
    """Encode what comes before the content of a text or message of so many bytes."""
    return varint(number << 3 | BYTES) + varint(size)


def bytes_field(number: int, content: bytes | str) -> bytes:
    """Encode a text, or a message that is encoded already."""
    raw = content.encode() if isinstance(content, str) else content
    return bytes_head(number, len(raw)) + raw
