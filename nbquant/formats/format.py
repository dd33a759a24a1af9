"""What a format of checkpoints is."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nbquant.tensorfile import TensorFile


@dataclass(frozen=True)
class Format:
    """A format of checkpoints: files of tensors that are mapped, without running any code in them.

    A new format is one file, with its functions and its record, and one line in :mod:`nbquant.formats.formats`.

    Attributes:
        name: What it is called.
        sniff: Whether a path is of this format; it need not be there.
        open: Opens a path: the file of each tensor, in the order of the checkpoint, see :meth:`TensorFile.of`. It reads
            names, types and shapes only, bounded in memory, and raises ValueError where something is wrong with them.
    """

    name: str
    sniff: Callable[[Path], bool]
    open: Callable[[Path], dict[str, TensorFile]]
