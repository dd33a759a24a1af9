"""Safetensors checkpoints of quantized weights: their parts, their configuration, and the record of a layout."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from nbquant.formats.packed_tensor import PackedTensor, as_float32
from nbquant.formats.safetensors import open_safetensors
from nbquant.tensorfile import FLOATS, MOST_JSON, StoredTensor, TensorFile, parse_json

CONFIGS = ("config.json", "quantize_config.json")
"""Files beside the weights that tell how they were quantized; the second is AutoGPTQ's."""
_KEYS = ("quantization_config", "compression_config", "quantization")  # the last is MLX's


@dataclass(frozen=True, eq=False)
class PackedCheckpoint:
    """An open checkpoint.

    Attributes:
        path: Its path: a file, an index or a folder.
        files: The file of each tensor, in the order of the checkpoint.
        config: What its configuration says about quantization; empty without one.
    """

    path: Path
    files: Mapping[str, TensorFile]
    config: Mapping[str, Any]

    @staticmethod
    def open(path: Path) -> "PackedCheckpoint":
        """Open the files, and read the configuration beside them.

        Raises:
            ValueError: Damaged files, or a configuration that is not JSON.
            OSError: Files that do not exist or cannot be read.
        """
        return PackedCheckpoint(path, open_safetensors(path), _config(path if path.is_dir() else path.parent))

    def __contains__(self, name: object) -> bool:
        return name in self.files

    def stored(self, name: str) -> StoredTensor:
        """Look up the header entry of a tensor."""
        return self.files[name].tensors[name]

    def is_stored(self, name: str, dtypes: Collection[str]) -> bool:
        """Whether there is a tensor of one of these types."""
        return name in self.files and self.stored(name).dtype in dtypes

    def require(self, name: str, dtypes: Collection[str], axes: Collection[int] = (2,)) -> np.ndarray:
        """Map a part of a quantized weight.

        Args:
            name: Its name.
            dtypes: Types that it may have.
            axes: Numbers of axes that it may have.

        Raises:
            ValueError: No such tensor, or one without entries, of another type, or of other axes.
        """
        if name not in self.files:
            raise self.damaged(name, "is required, but is not there")
        found = self.stored(name)
        if found.dtype not in dtypes or len(found.shape) not in axes or not found.count:
            required = f"{' or '.join(dtypes)} of {' or '.join(map(str, axes))} axes"
            raise self.damaged(name, f"must be {required}, but is {found.dtype} of shape {found.shape}")
        return self.files[name].array(name)

    def floats(self, name: str, axes: Collection[int] = (0, 1, 2)) -> Float32[np.ndarray, "..."]:
        """Read a floating-point part of a quantized weight as a whole.

        Raises:
            ValueError: As :meth:`require`.
        """
        return as_float32(self.require(name, FLOATS, axes), self.stored(name).dtype)

    def integers(self, name: str, most: int) -> Int64[np.ndarray, " n"]:
        """Read a vector of integers.

        Raises:
            ValueError: As :meth:`require`, or more integers than the greatest number allowed.
        """
        found = self.require(name, ("I32", "I64"), (1,))
        if len(found) > most:
            raise self.damaged(name, f"must have at most {most:,} entries, but has {len(found):,}")
        return found.astype(np.int64)

    def bits(self, names: Iterable[str]) -> int:
        """Count the stored bits of tensors."""
        return sum(8 * self.stored(name).source.size for name in names)

    def damaged(self, name: str, how: str) -> ValueError:
        """Make the error of a tensor that does not fit the layout."""
        file = self.files[name].path if name in self.files else self.path
        return ValueError(f"tensor {name!r} of {str(file)!r} {how}: get the checkpoint again, with all its files.")

    def plain(self, name: str) -> PackedTensor:
        """Make the record of a tensor that is not quantized."""
        found = self.stored(name)
        columns = found.count // found.shape[0] if len(found.shape) > 1 else found.count
        values = partial(_values, self.files[name], name, columns) if found.dtype in FLOATS else None
        return PackedTensor(name, found.shape, found.dtype, None, self.bits([name]), None, values)


@dataclass(frozen=True)
class PackedLayout:
    """A library's layout of quantized weights in safetensors files.

    A new layout is one file with its functions and its record, and one line in
    :mod:`nbquant.formats.packed_safetensors`.

    Attributes:
        name: Name of the layout.
        find: find(checkpoint) lists the tensors that hold codes in this layout, by names, types and shapes.
        read: read(checkpoint, name) returns the weight with these codes, and the names of all its parts. It raises
            ValueError, with the name of the tensor and the file, where a part is missing or does not fit.
    """

    name: str
    find: Callable[[PackedCheckpoint], list[str]]
    read: Callable[[PackedCheckpoint, str], tuple[PackedTensor, tuple[str, ...]]]


def _values(file: TensorFile, name: str, columns: int, first: int, last: int) -> Float32[np.ndarray, "rows columns"]:
    return as_float32(file.array(name).reshape(-1, columns)[first:last], file.tensors[name].dtype)


def _config(folder: Path) -> dict[str, Any]:
    for name in CONFIGS:
        path = folder / name
        if not path.is_file():
            continue
        with path.open("rb") as file:
            raw = file.read(MOST_JSON + 1)
        if len(raw) > MOST_JSON:
            raise ValueError(f"{str(path)!r} must be at most {MOST_JSON} bytes, but is more: get the file again.")
        read = parse_json(raw, repr(str(path)))
        found = [read[key] for key in _KEYS if key in read] if name == CONFIGS[0] else [read]
        if found and isinstance(found[0], dict):
            return found[0]
    return {}
