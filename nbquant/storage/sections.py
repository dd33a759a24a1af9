"""Sections of a file: reading, and verification of their checksums at opening and at every read.

Files are opened for each read and not mapped: truncating a file in use gives an error rather than a crash.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

from nbquant.coding import codes
from nbquant.storage.errors import CorruptFileError
from nbquant.storage.header import read_header
from nbquant.storage.layout import (
    CHECKSUM,
    DIGEST,
    MAGIC,
    MAJOR_WITH_FORMATS,
    MOST_HEADER,
    PREFIX,
    Layout,
    Section,
)

PIECE = 1 << 20  # bytes read at a time
EXPANSION = 4096  # restored bytes per byte of the file, unless the caller allows more …
FREE = 1 << 28  # … in addition to these

_AGAIN = "it was damaged or cut in transfer, or changed since; get it again"
_KINDS = {
    b"PK\x03\x04": "a zip archive, as torch.save writes",
    b"\x80": "a pickle, which may run code when it is read",
    b"\x1f\x8b": "packed with gzip",
    b"\x28\xb5\x2f\xfd": "packed with zstd",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"GGUF": "a GGUF file",
}


def open_layout(path: Path, max_bytes: int | None) -> Layout:
    """Read the layout of a file after verifying all of its checksums.

    Raises:
        CorruptFileError: Any damage in the file.
        OSError: A file that does not exist or cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"a .nbq file is required, but there is no file {str(path)!r}.")
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = blake2b(digest_size=DIGEST)
        prefix = file.read(PREFIX)
        major, length = _header_length(prefix, size)
        raw = file.read(length + CHECKSUM)
        header, checksum = raw[:length], raw[length:]
        if len(raw) < length + CHECKSUM or zlib.crc32(prefix + header) != int.from_bytes(checksum, "little"):
            raise CorruptFileError("header", f"its checksum must be that of its content, but is not: {_AGAIN}.")
        most = EXPANSION * size + FREE if max_bytes is None else max_bytes
        layout = read_header(header, size, most, major)
        digest.update(prefix + raw)
        for section in layout.sections:
            reader = SectionReader(file, section)
            for begin in range(0, section.size, PIECE):
                digest.update(reader.take(min(PIECE, section.size - begin)))
            digest.update(reader.end())
        if file.read(DIGEST + 1) != digest.digest():
            raise CorruptFileError(
                "end", f"the file must end in the digest of everything before, but does not: {_AGAIN}."
            )
    return layout


class SectionReader:
    """Reads a section in parts of given sizes, and verifies its checksum at the end.

    Args:
        file: The file, at the beginning of the section.
        section: The section.
    """

    def __init__(self, file: BinaryIO, section: Section) -> None:
        self._file, self._section, self._checksum = file, section, 0

    def take(self, size: int) -> bytes:
        """Read the next bytes.

        Raises:
            CorruptFileError: There are fewer bytes.
        """
        data = self._file.read(size)
        if len(data) < size:
            raise CorruptFileError(self._section.label, f"{size} bytes are required, but {len(data)} came: {_AGAIN}.")
        self._checksum = zlib.crc32(data, self._checksum)
        return data

    def end(self) -> bytes:
        """Verify the checksum, after everything has been read.

        Raises:
            CorruptFileError: The checksum does not match.
        """
        stored = self._file.read(CHECKSUM)
        if len(stored) < CHECKSUM or int.from_bytes(stored, "little") != self._checksum:
            raise CorruptFileError(
                self._section.label, f"its checksum must be that of its content, but is not: {_AGAIN}."
            )
        return stored


@contextmanager
def reading(path: Path, section: Section) -> Iterator[SectionReader]:
    """Read one section of a file.

    Raises:
        OSError: The file does not exist any more.
    """
    with path.open("rb") as file:
        file.seek(section.offset)
        yield SectionReader(file, section)


@contextmanager
def damage_of(label: str) -> Iterator[None]:
    """Turn errors of a decoder into errors of damage in that part of the file."""
    try:
        yield
    except CorruptFileError:
        raise
    except ValueError as error:
        raise CorruptFileError(label, str(error)) from None


def _header_length(prefix: bytes, size: int) -> tuple[int, int]:
    """Major version, and length of the header."""
    if prefix[: len(MAGIC)] != MAGIC[: len(prefix)] or not prefix:
        raise CorruptFileError("magic", f"a .nbq file is required, but this one {_kind(prefix)}: choose another file.")
    if len(prefix) < PREFIX:
        raise CorruptFileError("magic", f"{PREFIX} bytes are required at the start, but {len(prefix)} came: {_AGAIN}.")
    major, minor, length = struct.unpack("<HHI", prefix[len(MAGIC) :])
    known = sorted({MAJOR_WITH_FORMATS, *(code.major for code in codes.CODES)})
    if major not in known:
        raise CorruptFileError(
            "version",
            f"version {' or '.join(map(str, known))} of the format is required, but this file has {major}.{minor}: "
            + ("update nbquant." if major > known[-1] else f"{_AGAIN}."),
        )
    room = size - PREFIX - CHECKSUM - DIGEST
    if not 2 <= length <= min(MOST_HEADER, room):
        raise CorruptFileError(
            "header", f"2 to {min(MOST_HEADER, max(room, 2))} bytes are required, but {length} are announced: {_AGAIN}."
        )
    return major, length


def _kind(prefix: bytes) -> str:
    """Describe a file of another kind."""
    if not prefix:
        return "is empty"
    if prefix[8:9] == b"{" and int.from_bytes(prefix[:8], "little") < 1 << 32:
        return "is a safetensors file, which nbquant.select and safetensors read"
    if prefix[:4] == MAGIC[:4] or prefix[1:4] == MAGIC[1:4]:
        return "was damaged in transfer, as by a transfer as text"
    known = next((kind for start, kind in _KINDS.items() if prefix.startswith(start)), None)
    return f"is {known}" if known else "is of another kind"
