"""Export of quantized models to the layouts of compressed-tensors: packed integers, and FP8.

Source: compressed-tensors 0.20.1.
"""

from pathlib import Path
from typing import Any

import numpy as np

from nbquant.formats.gguf_writer import Value
from nbquant.formats.packed_words import pack_stream
from nbquant.progress import Progress
from nbquant.quantization.blocks import formats as blocks
from nbquant.quantization.blocks.block_format import ROW, TENSOR
from nbquant.quantization.codebook import QuantizedTensor
from nbquant.quantization.quantized import Quantized
from nbquant.storage.export_safetensors import (
    WEIGHT,
    StoredPart,
    integer_matrix,
    layer_of,
    write_checkpoint,
)
from nbquant.storage.source import UnquantizedTensors
from nbquant.storage.unfit import convert_all

WHAT = "compressed-tensors"
FLOAT8 = "fp8_e4m3"
_PACKED, _FLOAT, _MIXED = "pack-quantized", "float-quantized", "mixed-precision"
_TENSOR, _CHANNEL, _GROUP = "tensor", "channel", "group"

Scheme = tuple[str, int, str, bool, str, int | None]
"""Layout, bits, type of numbers, whether there are no zero points, strategy, columns of a group."""


def export_compressed_tensors(
    quantized: Quantized,
    path: Path,
    unquantized: UnquantizedTensors,
    metadata: dict[str, Value],
    progress: Progress,
) -> None:
    """Write a checkpoint; see :func:`nbquant.storage.export.export`."""
    found = convert_all(quantized.tensors, _stored)
    targets: dict[Scheme, list[str]] = {}
    for name, (scheme, _) in found.items():
        targets.setdefault(scheme, []).append(name.rpartition(".")[0])
    parts = {name: stored for name, (_, stored) in found.items()}
    write_checkpoint(path, parts, _config(targets), unquantized, metadata, progress)


def _stored(name: str, tensor: QuantizedTensor) -> tuple[Scheme, list[StoredPart]]:
    is_float = tensor.scaling is not None and tensor.scaling.format.partition("/")[0] == FLOAT8
    return (_float_parts if is_float else _integer_parts)(name, tensor)


def _integer_parts(name: str, tensor: QuantizedTensor) -> tuple[Scheme, list[StoredPart]]:
    layer_of(name, tensor, WHAT, (*blocks.INTEGERS, FLOAT8))
    matrix = integer_matrix(name, tensor, WHAT)
    layer, size = matrix.layer, matrix.group_size
    strategy = _TENSOR if size == 0 else _CHANNEL if size < 0 else _GROUP
    scale = matrix.scale.reshape(-1) if strategy == _TENSOR else matrix.scale
    parts = [
        StoredPart(f"{layer}weight_packed", "I32", pack_stream(matrix.integers, matrix.bits)),
        StoredPart(f"{layer}weight_scale", "F32", scale),
        StoredPart(f"{layer}weight_shape", "I64", np.array(tensor.shape, "<i8")),
    ]
    if matrix.zero is not None:
        if strategy == _TENSOR:  # the library does not pack a single one
            zero = (matrix.zero.reshape(-1).astype(np.int16) - (1 << matrix.bits - 1)).astype(np.int8)
            parts.append(StoredPart(f"{layer}weight_zero_point", "I8", zero))
        else:
            words = pack_stream(np.ascontiguousarray(matrix.zero.T), matrix.bits).T
            parts.append(StoredPart(f"{layer}weight_zero_point", "I32", words))
    return (_PACKED, matrix.bits, "int", matrix.zero is None, strategy, size if size > 0 else None), parts


def _float_parts(name: str, tensor: QuantizedTensor) -> tuple[Scheme, list[StoredPart]]:
    layer = layer_of(name, tensor, WHAT, (*blocks.INTEGERS, FLOAT8))
    scaling = tensor.scaling
    assert scaling is not None
    found = blocks.named(scaling.format)
    if found.length not in (TENSOR, ROW):
        raise ValueError(
            f"{WHAT} holds FP8 with a scale for each channel or for the tensor, but {name!r} is in {scaling.format}: "
            "quantize it in fp8_e4m3/channel."
        )
    encoded = scaling.encoded(tensor.assignment, tensor.shape)
    scale = encoded.part("scale").astype("<f4")
    whole = found.length == TENSOR
    parts = [
        StoredPart(f"{layer}{WEIGHT}", "F8_E4M3", encoded.codes),
        StoredPart(f"{layer}weight_scale", "F32", scale.reshape(1) if whole else scale.reshape(-1, 1)),
    ]
    return (_FLOAT, 8, "float", True, _TENSOR if whole else _CHANNEL, None), parts


def _config(targets: dict[Scheme, list[str]]) -> dict[str, Any]:
    """The configuration, with a group of layers for each scheme."""
    groups = {}
    for i, ((layout, bits, kind, symmetric, strategy, size), layers) in enumerate(targets.items()):
        weights = {
            "num_bits": bits,
            "type": kind,
            "symmetric": symmetric,
            "strategy": strategy,
            "group_size": size,
            "dynamic": False,
        }
        groups[f"group_{i}"] = {
            "targets": layers,
            "weights": weights,
            "input_activations": None,
            "output_activations": None,
            "format": layout,
        }
    layouts = {scheme[0] for scheme in targets}
    return {
        "quant_method": WHAT,
        "format": layouts.pop() if len(layouts) == 1 else _MIXED,
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": [],
    }
