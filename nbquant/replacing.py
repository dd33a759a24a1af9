"""Atomic replacement of files: on any failure nothing changes on disk."""

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MOST_BESIDE = 100  # bytes of the name reused for a temporary file, as names are limited to 255 bytes


@contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[Path]:
    """Open a file to write that then replaces ``path``; on any failure nothing changes.

    Args:
        path: File to replace or create.
        durable: Whether the new content must survive a power cut; otherwise it may be truncated or empty after one.

    Raises:
        OSError: A folder that does not exist, is read-only or full.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"a folder that exists is required, but there is no {str(path.parent)!r}: make it.")
    if path.is_dir():
        raise IsADirectoryError(f"the name of a file is required, but {str(path)!r} is a folder: name a file in it.")
    partial = path.with_name(f".{shortened(path.name, MOST_BESIDE)}.{secrets.token_hex(8)}.partial")
    try:
        yield partial
        if durable:
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(partial)):
            raise  # unrelated to writing
        kept = "the existing file is unchanged" if path.exists() else "nothing was written"
        reason = f"{str(path)!r} could not be written ({os.strerror(error.errno)}): {kept}; make room, or name another."
        raise OSError(error.errno, reason) from None
    finally:
        with suppress(OSError):
            partial.unlink()


def shortened(name: str, most: int) -> str:
    """Cut a file's name to a number of bytes."""
    return os.fsencode(name)[:most].decode(sys.getfilesystemencoding(), "ignore")
