"""Checkpoints on disk, and which of their tensors can be quantized."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from nbquant.formats import formats
from nbquant.formats.packed import PackedNames
from nbquant.models.layers import owner
from nbquant.tensorfile import FLOATS, StoredTensor, TensorFile

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""Last name components of batch norms' buffers; a file does not tell buffers from parameters."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model's tensors on disk; only names, types and shapes are read.

    Attributes:
        path: The opened file, index or folder.
        files: The open file of each tensor, in the order of the file's header or of the index.
    """

    path: Path
    files: dict[str, TensorFile]

    @staticmethod
    def open(path: str | os.PathLike[str]) -> "Checkpoint":
        """Open a checkpoint.

        Args:
            path: A ``.safetensors`` file; the ``.safetensors.index.json`` of several; a folder with one index, or with
                one file; or a file of another of :data:`nbquant.formats.formats.FORMATS`.

        Raises:
            ValueError: Another kind of file, several candidates in a folder, or files that are damaged or contradict
                their index.
            OSError: A file that does not exist or cannot be read.
        """
        given = Path(path)
        return Checkpoint(given, formats.open_files(given))

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers with weights that can be quantized, in the checkpoint's order."""
        return tuple(dict.fromkeys(owner(name) for name in self.files if self.is_quantizable(name)))

    def stored(self, name: str) -> StoredTensor:
        """Look up the header entry of a tensor."""
        return self.files[name].tensors[name]

    def tensor(self, name: str) -> Float[Tensor, "..."]:
        """Map a weight from its file."""
        return self.files[name].tensor(name)

    def is_quantizable(self, name: str) -> bool:
        """Whether it is a floating-point weight: neither a buffer nor a component of a quantized weight."""
        last, packed = name.rpartition(".")[2], self.packed
        kept = last in BUFFERS or name in packed.codes or name in packed.parts
        return self.stored(name).dtype in FLOATS and not kept

    @cached_property
    def packed(self) -> PackedNames:
        """Names of the components of weights that are already quantized."""
        return PackedNames.of({name: self.stored(name) for name in self.files})
