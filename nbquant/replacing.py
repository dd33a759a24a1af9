"""Write a file as a whole: unless all goes well, nothing changes on disk."""

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MOST_BESIDE = 100  # bytes of a file's name in that of a file beside it, as names may have 255 bytes and not more


@contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[Path]:
    """A file to write, which then takes the place of ``path``; unless something fails, when nothing changes.

    Args:
        path: What to replace, or to make.
        durable: The new content must survive a power cut; without, it may be found cut or empty.

    Raises:
        OSError: The folder is not there, is read-only or full.
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
            raise  # not about what is written
        kept = "the file of that name is as it was" if path.exists() else "nothing was written"
        reason = f"{str(path)!r} could not be written ({os.strerror(error.errno)}): {kept}; make room, or name another."
        raise OSError(error.errno, reason) from None
    finally:
        with suppress(OSError):
            partial.unlink()


def shortened(name: str, most: int) -> str:
    """As much of the beginning of a file's name as takes so many bytes at the most."""
    return os.fsencode(name)[:most].decode(sys.getfilesystemencoding(), "ignore")
