"""Registry of formats of quantized files."""

import os
from pathlib import Path

from nbquant.formats.coreml import COREML
from nbquant.formats.gguf import GGUF
from nbquant.formats.onnx import ONNX
from nbquant.formats.packed_safetensors import PACKED_SAFETENSORS
from nbquant.formats.packed_tensor import PackedFile, PackedFileFormat
from nbquant.tensorfile import refuse_pickle

PACKED_FORMATS: tuple[PackedFileFormat, ...] = (GGUF, COREML, ONNX, PACKED_SAFETENSORS)
"""All formats; the first that recognises a file opens it. Read as ``packed_files.PACKED_FORMATS``."""


def is_packed(path: Path) -> bool:
    """Whether a file is in one of the formats, and not so damaged that this cannot be seen."""
    try:
        return any(known.sniff(path) for known in PACKED_FORMATS)
    except ValueError:
        return False


def open_packed(path: str | os.PathLike[str]) -> PackedFile:
    """Open a file that another library has quantized.

    Raises:
        ValueError: Another kind of file, or a damaged one.
        OSError: A file that does not exist or cannot be read.
    """
    given = Path(path)
    refuse_pickle(given)
    if not given.exists():
        raise FileNotFoundError(f"a quantized file is required, but there is no file {str(given)!r}.")
    for known in PACKED_FORMATS:
        if known.sniff(given):
            return known.open(given)
    raise ValueError(
        f"a quantized file in one of the formats {', '.join(f.name for f in PACKED_FORMATS)} is required, but "
        f"{str(given)!r} is none: for a checkpoint in floating point use nbquant.select, for an .nbq file nbquant.load."
    )
