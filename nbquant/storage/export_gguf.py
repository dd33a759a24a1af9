"""Export of quantized models to GGUF files."""

from collections.abc import Iterator
from functools import partial
from math import prod
from pathlib import Path

from nbquant.formats.gguf_writer import HELD, TYPES, GgufTensor, Value, write_gguf
from nbquant.progress import Progress, track
from nbquant.quantization.blocks import formats as blocks
from nbquant.quantization.codebook import QuantizedTensor
from nbquant.quantization.quantized import Quantized
from nbquant.storage.dtypes import entry_bytes
from nbquant.storage.source import UnquantizedTensors
from nbquant.storage.unfit import convert_all


def export_gguf(
    quantized: Quantized,
    path: Path,
    unquantized: UnquantizedTensors,
    metadata: dict[str, Value],
    progress: Progress,
) -> None:
    """Write a model in block formats of GGUF; see :func:`nbquant.storage.export.export`."""
    if "general.alignment" in metadata:
        raise ValueError("the file is written with the usual alignment: leave 'general.alignment' out.")
    about: dict[str, Value] = {"general.architecture": "unknown", "general.quantization_version": 2}
    about |= metadata | {f"nbquant.tied.{name}": first for name, first in unquantized.tied.items()}
    tensors = list(convert_all(quantized.tensors, _quantized_tensor).values())
    tensors += [_plain_tensor(unquantized, i) for i in range(len(unquantized.content))]
    ticks = track(range(len(tensors)), "export", progress)
    next(ticks, None)
    write_gguf(path, [_ticking(tensor, ticks) for tensor in tensors], about)


def _quantized_tensor(name: str, tensor: QuantizedTensor) -> GgufTensor:
    scaling = tensor.scaling
    if scaling is None:
        raise ValueError(
            f"GGUF holds block formats ({', '.join(HELD)}), but {name!r} has a codebook: quantize it in one of them, "
            'as in nbquant.fit(selection, "q4_k").'
        )
    if scaling.format not in HELD:
        raise ValueError(
            f"GGUF holds the block formats {', '.join(HELD)}, but {name!r} is in {scaling.format}: quantize it in one "
            "of them."
        )
    found = blocks.named(scaling.format)
    shape = tuple(tensor.shape)
    columns = shape[-1] if shape else 1
    if columns % found.length:
        raise ValueError(
            f"rows in {found.name} of GGUF must be a multiple of {found.length} weights, but {name!r} has the shape "
            f"{shape}: leave it out of nbquant.select(model, layers=…), so that it is stored unquantized."
        )
    assert found.layout is not None
    size = prod(shape) // found.length * found.layout.size

    def pieces() -> Iterator[memoryview]:
        yield found.pack(scaling.encoded(tensor.assignment, shape)).data

    return GgufTensor(name, shape, HELD[scaling.format], size, pieces)


def _plain_tensor(unquantized: UnquantizedTensors, index: int) -> GgufTensor:
    entry = unquantized.content[index][0]
    if entry.dtype not in TYPES:
        raise ValueError(
            f"numbers in GGUF are {', '.join(TYPES)}, but {entry.name!r} is {entry.dtype}: convert it first."
        )
    size = prod(entry.shape) * entry_bytes(entry.dtype)
    return GgufTensor(entry.name, entry.shape, TYPES[entry.dtype], size, partial(unquantized.pieces, index))


def _ticking(tensor: GgufTensor, ticks: Iterator[object]) -> GgufTensor:
    def pieces() -> Iterator[bytes | memoryview]:
        yield from tensor.pieces()
        next(ticks, None)

    return GgufTensor(tensor.name, tensor.shape, tensor.type, tensor.size, pieces)
