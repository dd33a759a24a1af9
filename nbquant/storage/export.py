"""Export of quantized models to files of other libraries."""

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from math import prod
from pathlib import Path

from torch import nn

from nbquant.formats.gguf_writer import HELD, TYPES, GgufTensor, Value, write_gguf
from nbquant.progress import Progress, track
from nbquant.quantization.blocks import formats as blocks
from nbquant.quantization.codebook import QuantizedTensor
from nbquant.quantization.quantized import Quantized
from nbquant.required import QUANTIZED, require, require_path
from nbquant.storage.dtypes import entry_bytes
from nbquant.storage.source import UnquantizedTensors, unquantized_of


def export(
    quantized: Quantized,
    path: str | os.PathLike[str],
    model: nn.Module | str | os.PathLike[str] | None = None,
    *,
    format: str = "gguf",
    metadata: Mapping[str, Value] | None = None,
    progress: Progress = True,
) -> None:
    """Write a model quantized in block formats to a file that other libraries read.

    The blocks are those of the quantization, bit for bit: with the scales that were searched, no weight is rounded
    again. Other tensors keep their type. Names are those of the model; programs that expect GGUF's own names, such as
    llama.cpp, need them renamed. Names that are tied to a tensor are left out, and listed in the metadata.

    Args:
        quantized: The quantized selection, such as ``nq.fit(selection, "q4_k")``: in Q4_0 to Q8_0, Q2_K to Q6_K,
            IQ4_NL, TQ1_0, TQ2_0, MXFP4 or NVFP4 of GGUF, for each layer the same or another.
        path: The file, ending in .gguf, in a folder that exists; an existing one is replaced once the new one is
            complete.
        model: The module or checkpoint path selected from, for the tensors that are not quantized; None if the
            selection is complete.
        format: "gguf".
        metadata: Metadata of the file by key, such as {"general.architecture": "llama", "llama.block_count": 30}:
            texts, numbers, truth values, or lists of these.
        progress: See :data:`nbquant.progress.Progress`; counts tensors.

    Raises:
        ValueError: What the file's format cannot hold: another method or block format, rows that are no multiple of its
            blocks, more than four axes, another type of numbers; another ending; a model that does not fit.
        TypeError: Arguments of other types.
        OSError: A folder that does not exist, is read-only or full.
        Cancelled: By ``progress``.
    """
    require("quantized", quantized, Quantized, QUANTIZED)
    require_path("path", path)
    if format not in EXPORTS:
        raise ValueError(f"a format of {', '.join(EXPORTS)} is required, but {format!r} came.")
    path = Path(path)
    if path.suffix != f".{format}":
        raise ValueError(f"the name of the file must end in .{format}, but {path.name!r} came: add the ending.")
    quantized.require_whole()
    EXPORTS[format](quantized, path, unquantized_of(model, quantized), dict(metadata or {}), progress)


def _export_gguf(
    quantized: Quantized,
    path: Path,
    unquantized: UnquantizedTensors,
    metadata: dict[str, Value],
    progress: Progress,
) -> None:
    if "general.alignment" in metadata:
        raise ValueError("the file is written with the usual alignment: leave 'general.alignment' out.")
    about: dict[str, Value] = {"general.architecture": "unknown", "general.quantization_version": 2}
    about |= metadata | {f"nbquant.tied.{name}": first for name, first in unquantized.tied.items()}
    tensors = [_quantized_tensor(name, tensor) for name, tensor in quantized.tensors.items()]
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


EXPORTS: dict[str, Callable[[Quantized, Path, UnquantizedTensors, dict[str, Value], Progress], None]] = {
    "gguf": _export_gguf
}
"""The writer of each format, which is the ending of its files."""
