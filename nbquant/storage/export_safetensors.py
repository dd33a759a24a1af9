"""Export of quantized models to safetensors checkpoints with a configuration beside them."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nbquant.formats.gguf_writer import Value
from nbquant.formats.packed_checkpoint import CONFIGS
from nbquant.progress import Progress, track
from nbquant.quantization.blocks import formats as blocks
from nbquant.quantization.blocks.block_format import ROW, TENSOR, BlockFormat
from nbquant.quantization.codebook import QuantizedTensor
from nbquant.replacing import replacing
from nbquant.storage.dtypes import entry_bytes
from nbquant.storage.source import UnquantizedTensors
from nbquant.tensorfile import MOST_JSON, parse_json, stream_tensors

CONFIG = CONFIGS[0]
KEY = "quantization_config"
WEIGHT = "weight"


@dataclass(frozen=True, eq=False)
class StoredPart:
    """A part of a quantized weight as it is stored.

    Attributes:
        name: Its name.
        dtype: Type in safetensors' spelling.
        values: Numbers, or bytes of types that numpy does not have.
    """

    name: str
    dtype: str
    values: np.ndarray


@dataclass(frozen=True, eq=False)
class IntegerMatrix:
    """A matrix of integers with scales.

    Attributes:
        layer: Name of the layer, with a dot at the end unless it is empty.
        format: Its block format.
        bits: Bits of an integer.
        integers: Integers, offset so that the middle one, which stands for 0, is 2^(bits − 1).
        scale: Scales, rows × groups; one for all weights has one row and one group.
        zero: Zero points with the same offset; None in symmetric formats.
    """

    layer: str
    format: BlockFormat
    bits: int
    integers: np.ndarray
    scale: np.ndarray
    zero: np.ndarray | None

    @property
    def group_size(self) -> int:
        """Columns of a group; 0 if there is one scale for the tensor, −1 if there is one for each row."""
        if self.format.length == TENSOR:
            return 0
        return -1 if self.format.length == ROW or self.scale.shape[1] == 1 else self.format.length


def layer_of(name: str, tensor: QuantizedTensor, what: str, held: tuple[str, ...]) -> str:
    """Find the name of the layer of a quantized weight, with a dot at the end.

    Raises:
        ValueError: Another block format than is held, a codebook, no matrix, or another name than "weight".
    """
    if tensor.scaling is None or tensor.scaling.format.partition("/")[0] not in held:
        came = "has a codebook" if tensor.scaling is None else f"is in {tensor.scaling.format}"
        raise ValueError(f"{what} holds the block formats {', '.join(held)}, but {name!r} {came}: quantize it in one.")
    layer, _, last = name.rpartition(".")
    if len(tensor.shape) != 2 or last != WEIGHT:
        raise ValueError(
            f"{what} holds matrices whose name ends in {WEIGHT!r}, but {name!r} has the shape {tuple(tensor.shape)}: "
            "leave it out of nbquant.select(model, layers=…), so that it is stored unquantized."
        )
    return f"{layer}." if layer else ""


def integer_matrix(name: str, tensor: QuantizedTensor, what: str) -> IntegerMatrix:
    """Make a matrix of integers of a quantized weight.

    Raises:
        ValueError: As :func:`layer_of`, or groups that do not divide the columns.
    """
    layer = layer_of(name, tensor, what, blocks.INTEGERS)
    scaling = tensor.scaling
    assert scaling is not None
    found, (rows, columns) = blocks.named(scaling.format), tensor.shape
    if found.length > 0 and columns > found.length and columns % found.length:
        raise ValueError(
            f"groups in {what} divide the columns, but {name!r} has {columns} in groups of {found.length}: choose "
            "another length, such as int4/32 or int4/channel."
        )
    encoded = scaling.encoded(tensor.assignment, tensor.shape)
    level = found.levels.astype(np.int16)
    bits = (int(level.max()) - int(level.min())).bit_length()
    offset = 0 if level.min() == 0 else 1 << (bits - 1)
    shape = (1, 1) if found.length == TENSOR else (rows, -1)
    parts = {part.name: part.values for part in encoded.parts}
    zero = None
    if "zero_point" in parts:
        zero = (parts["zero_point"].astype(np.int16) + offset).astype(np.uint8).reshape(shape)
    integers = (level + offset).astype(np.uint8)[encoded.codes]
    return IntegerMatrix(layer, found, bits, integers, parts["scale"].astype("<f4").reshape(shape), zero)


def write_checkpoint(
    path: Path,
    parts: Mapping[str, Iterable[StoredPart]],
    config: Mapping[str, Any],
    unquantized: UnquantizedTensors,
    metadata: Mapping[str, Value],
    progress: Progress,
) -> None:
    """Write a safetensors file, and its configuration into the ``config.json`` beside it, whose other keys are kept.

    Args:
        path: The file.
        parts: Parts of each quantized weight.
        config: The configuration.
        unquantized: Tensors that are stored as they are.
        metadata: Metadata of the file.
        progress: Counts quantized weights.

    Raises:
        ValueError: A ``config.json`` that is no JSON object.
        OSError: A folder that does not exist, is read-only or full.
    """
    beside = path.with_name(CONFIG)
    kept = _read(beside)
    stored = {part.name: part for each in parts.values() for part in each}
    plain = {entry.name: index for index, (entry, _) in enumerate(unquantized.content)}
    heads = {name: (part.dtype, part.values.shape, part.values.nbytes) for name, part in stored.items()}
    for name, index in plain.items():
        entry = unquantized.content[index][0]
        heads[name] = entry.dtype, entry.shape, int(np.prod(entry.shape, dtype=np.int64)) * entry_bytes(entry.dtype)
    ticks = track(range(len(heads)), "export", progress)
    next(ticks, None)

    def pieces(name: str) -> Iterator[Tensor]:
        if name in stored:
            yield torch.from_numpy(np.require(stored[name].values, requirements=("C", "W")).reshape(-1).view(np.uint8))
        else:
            for piece in unquantized.pieces(plain[name]):
                yield torch.from_numpy(np.frombuffer(bytearray(piece), np.uint8))
        next(ticks, None)

    about = {key: str(value) for key, value in {"format": "pt", **metadata}.items()}
    about |= {f"nbquant.tied.{name}": first for name, first in unquantized.tied.items()}
    stream_tensors(path, heads, pieces, about)
    with replacing(beside) as partial:
        partial.write_text(json.dumps({**kept, KEY: dict(config)}, indent=2) + "\n")


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    if path.stat().st_size > MOST_JSON:
        raise ValueError(f"{str(path)!r} must be a configuration, but has more than {MOST_JSON} bytes: move it away.")
    return parse_json(path.read_bytes(), repr(str(path)))
