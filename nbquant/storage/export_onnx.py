"""Export of quantized models to ONNX: weights alone, or within a network that was exported before."""

import os
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from nbquant.formats.constant import Constant
from nbquant.formats.gguf_writer import Value
from nbquant.formats.onnx_model import OnnxModel, open_model
from nbquant.formats.onnx_network import fields_of, opset_of
from nbquant.formats.onnx_weights import OnnxWeight, onnx_weight
from nbquant.formats.onnx_writer import (
    IR_VERSIONS,
    OnnxConstant,
    OnnxOperation,
    Part,
    constant_part,
    opset_field,
    output_part,
    write_onnx,
)
from nbquant.formats.protobuf import bytes_field, number_field
from nbquant.listed import listed
from nbquant.progress import Progress, track
from nbquant.quantization.quantized import Quantized
from nbquant.storage.source import UnquantizedTensors


def export_onnx(
    quantized: Quantized,
    path: Path,
    unquantized: UnquantizedTensors,
    metadata: dict[str, Value],
    progress: Progress,
) -> None:
    """Write all tensors as outputs of a graph without inputs; see :func:`nbquant.storage.export.export`."""
    weights = [onnx_weight(name, tensor) for name, tensor in track(list(quantized.tensors.items()), "export", progress)]
    plain = [
        OnnxConstant(entry.name, entry.dtype, entry.shape, partial(unquantized.pieces, i))
        for i, (entry, _) in enumerate(unquantized.content)
    ]
    types = {weight.name: (weight.type, weight.shape) for weight in weights}
    types |= {constant.name: (constant.type, constant.shape) for constant in plain}
    graph = [*_operations(weights)]
    graph += [Part.of(OnnxOperation("Identity", (first,), name).encoded()) for name, first in unquantized.tied.items()]
    graph += [Part.of(bytes_field(2, "nbquant")), *_constants(weights), *map(constant_part, plain)]
    graph += [output_part(name, *own) for name, own in types.items()]
    graph += [output_part(name, *types[first]) for name, first in unquantized.tied.items()]
    opset = max((weight.opset for weight in weights), default=min(IR_VERSIONS))
    head = number_field(1, IR_VERSIONS[opset]) + bytes_field(2, "nbquant") + opset_field(opset)
    write_onnx(path, head + _metadata(metadata), graph)


def export_network(
    quantized: Quantized,
    path: Path,
    network: str | os.PathLike[str],
    metadata: dict[str, Value],
    progress: Progress,
) -> None:
    """Write an ONNX network with quantized weights in the place of its own; see :func:`export_onnx`.

    Raises:
        ValueError: A network without a constant of the name and shape of each quantized tensor, or for an older version
            of the operators than the weights need.
    """
    model = open_model(Path(network), ())
    _require_constants(model, quantized)
    weights = [onnx_weight(name, tensor) for name, tensor in track(list(quantized.tensors.items()), "export", progress)]
    opset, required = opset_of(model), max(weight.opset for weight in weights)
    if opset < required:
        raise ValueError(
            f"{str(network)!r} must use version {required} of ONNX's operators for these formats, but uses {opset}: "
            f"export it again with torch.onnx.export(…, opset_version={required})."
        )
    head, graph = fields_of(model, leave_out=set(quantized.tensors))
    kept = [_kept(model.tensors[name]) for name in model.initializers if name not in quantized.tensors]
    parts = [*_operations(weights), *graph, *_constants(weights), *map(constant_part, kept)]
    write_onnx(path, head + _metadata(metadata), parts)


def _require_constants(model: OnnxModel, quantized: Quantized) -> None:
    for name, tensor in quantized.tensors.items():
        if name not in model.initializers:
            raise ValueError(
                f"{str(model.path)!r} must have a constant for each quantized tensor, but {name!r} is none of "
                f"{listed(model.initializers, 3)}: export it with torch.onnx.export(…, keep_initializers_as_inputs="
                "False), and without folding constants if that renames weights (optimize=False)."
            )
        if model.tensors[name].shape != tuple(tensor.shape):
            raise ValueError(
                f"{name!r} of {str(model.path)!r} must have the shape {tuple(tensor.shape)}, but has "
                f"{model.tensors[name].shape}: export the model that was selected from."
            )


def _operations(weights: Iterable[OnnxWeight]) -> list[Part]:
    return [Part.of(operation.encoded()) for weight in weights for operation in weight.operations]


def _constants(weights: Iterable[OnnxWeight]) -> list[Part]:
    return [constant_part(constant) for weight in weights for constant in weight.constants]


def _kept(tensor: Constant) -> OnnxConstant:
    """A constant as it is, with its bytes in the file, wherever they were."""

    def pieces() -> Iterator[memoryview]:
        yield tensor.read().view(np.uint8).data

    return OnnxConstant(tensor.name, tensor.type, tensor.shape, pieces)


def _metadata(metadata: Mapping[str, Value]) -> bytes:
    return b"".join(
        bytes_field(14, bytes_field(1, key) + bytes_field(2, str(value))) for key, value in metadata.items()
    )
