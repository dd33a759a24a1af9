"""Safetensors checkpoints of quantized weights, and the registry of their layouts."""

from pathlib import Path

from nbquant.formats.awq import AWQ
from nbquant.formats.bitsandbytes import BITSANDBYTES
from nbquant.formats.compressed_tensors import COMPRESSED_TENSORS
from nbquant.formats.float8 import FLOAT8
from nbquant.formats.gptq import GPTQ
from nbquant.formats.hqq import HQQ
from nbquant.formats.int8_scales import INT8
from nbquant.formats.mlx import MLX
from nbquant.formats.packed_checkpoint import PackedCheckpoint, PackedLayout
from nbquant.formats.packed_tensor import PackedFile, PackedFileFormat, PackedTensor
from nbquant.formats.quanto import QUANTO
from nbquant.formats.safetensors import is_safetensors
from nbquant.formats.torchao import TORCHAO

LAYOUTS: tuple[PackedLayout, ...] = (
    *(COMPRESSED_TENSORS, AWQ, GPTQ, BITSANDBYTES, HQQ, QUANTO, MLX, TORCHAO),
    *(FLOAT8, INT8),
)
"""All layouts; of several that find the same weight the first reads it."""


def is_packed_safetensors(path: Path) -> bool:
    """Whether a path is a safetensors checkpoint with weights in one of the layouts.

    Raises:
        ValueError: A damaged checkpoint.
        OSError: Files that are missing or cannot be read.
    """
    return path.exists() and is_safetensors(path) and bool(_layouts(PackedCheckpoint.open(path)))


def open_packed_safetensors(path: Path) -> PackedFile:
    """Open a safetensors file, an index or a folder; tensors without entries are left out.

    Raises:
        ValueError: A damaged checkpoint, or a weight with a part that is missing or does not fit.
        OSError: Files that are missing or cannot be read.
    """
    return packed_file(PackedCheckpoint.open(path))


def packed_file(checkpoint: PackedCheckpoint) -> PackedFile:
    """Make the records of all tensors of a checkpoint.

    Raises:
        ValueError: As :func:`open_packed_safetensors`.
    """
    layouts = _layouts(checkpoint)
    read: dict[str, PackedTensor] = {}
    parts: set[str] = set()
    for name, layout in layouts.items():
        read[name], used = layout.read(checkpoint, name)
        parts.update(used)
    tensors = {}
    for name in checkpoint.files:
        if name in read:
            tensors[name] = read[name]
        elif name not in parts and checkpoint.stored(name).count:
            tensors[name] = checkpoint.plain(name)
    names = ", ".join(dict.fromkeys(layout.name for layout in layouts.values()))
    metadata = {key: value for file in checkpoint.files.values() for key, value in file.metadata.items()}
    return PackedFile(checkpoint.path, names, tensors, metadata)


def _layouts(checkpoint: PackedCheckpoint) -> dict[str, PackedLayout]:
    """The layout of each tensor that holds codes."""
    found: dict[str, PackedLayout] = {}
    for layout in LAYOUTS:
        for name in layout.find(checkpoint):
            found.setdefault(name, layout)
    return found


PACKED_SAFETENSORS = PackedFileFormat("quantized safetensors", is_packed_safetensors, open_packed_safetensors)
