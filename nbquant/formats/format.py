"""The record of a checkpoint format."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nbquant.tensorfile import TensorFile


@dataclass(frozen=True)
class Format:
    """A checkpoint format: files of tensors that are mapped without executing code in them.

    A new format is one file with its functions and its record, and one line in :mod:`nbquant.formats.formats`.

    Attributes:
        name: Name of the format.
        sniff: sniff(path) tests whether a path has this format, whether or not it exists.
        open: open(path) returns the file of each tensor, in the checkpoint's order, see :meth:`TensorFile.of`. It reads
            names, types and shapes only, in bounded memory, and raises ValueError if they are damaged.
    """

    name: str
    sniff: Callable[[Path], bool]
    open: Callable[[Path], dict[str, TensorFile]]
