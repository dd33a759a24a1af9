"""ONNX models: DequantizeLinear and MatMulNBits of constants, and codebooks that indices are gathered from.

A weight is a constant that one of these nodes reads; its scales and zero points are its parts. DequantizeLinear takes
one scale for the tensor, for a place on an axis, or for a block along an axis: its groups are along the rows here, so
that matrices with groups along the first axis are transposed, as in torch's Linear. Weights are decoded in float32,
while an operator rounds them to the type of the scales.

Graphs within nodes, and functions, are not searched.

Source: the operators of ONNX (onnx 1.23.2) and of ONNX Runtime 1.32.0.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from nbquant.formats.codebook_tensor import codebook_tensor
from nbquant.formats.onnx_linear import read_linear
from nbquant.formats.onnx_model import OnnxModel, OnnxNode, open_model
from nbquant.formats.onnx_n_bits import read_n_bits
from nbquant.formats.packed_tensor import PackedFile, PackedFileFormat, PackedTensor
from nbquant.tensorfile import FLOATS

LINEAR, N_BITS, GATHER, CAST = "DequantizeLinear", "com.microsoft.MatMulNBits", "Gather", "Cast"
INDICES = ("U8", "I8", "U16", "I16", "I32", "I64", "U4", "U2")
_SUFFIX = re.compile(r"_(quantized|Q\d+(G\d+)?)$")
_FIRST = (0x0A, 0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42)  # the second field of a model

Read = tuple[PackedTensor, tuple[str, ...]]
"""A weight, and the names of its parts."""


def is_onnx(path: Path) -> bool:
    """Whether a file is named as ONNX models are, or starts as they do: with the version of the format."""
    if path.suffix.lower() == ".onnx":
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(3)
    return len(start) == 3 and start[0] == 8 and 3 <= start[1] <= 32 and start[2] in _FIRST


def open_onnx(path: Path) -> PackedFile:
    """Open an ONNX model; its external data must be beside it.

    Raises:
        ValueError: A damaged model, or a weight with a part that is missing or does not fit.
        OSError: A file that does not exist or cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"an ONNX model is required, but there is no file {str(path)!r}.")
    model = open_model(path, (*READERS, CAST))
    casts = {node.outputs[0]: node.input(0) for node in model.nodes if node.operator == CAST and node.outputs}
    found: dict[str, PackedTensor] = {}
    parts: set[str] = set()
    for node in model.nodes:
        reader = READERS.get(node.operator)
        name = "" if reader is None else _codes_of(model, node, casts)
        if reader is not None and name and name not in found:
            weight, used = reader(model, node, name)
            found[name] = replace(weight, others=_others(name, node))
            parts.update(used)
    tensors = {}
    for name, constant in model.tensors.items():
        if name in found:
            tensors[name] = found[name]
        elif name not in parts and constant.count:
            tensors[name] = constant.plain()
    return PackedFile(path, "ONNX", tensors)


def _codes_of(model: OnnxModel, node: OnnxNode, casts: dict[str, str]) -> str:
    """Name of the constant that holds the codes a node reads; "" if it reads none."""
    if node.operator == N_BITS:
        return node.input(1)
    if node.operator == LINEAR:
        return node.input(0) if node.input(0) in model.tensors else ""
    index = casts.get(node.input(1), node.input(1))
    book = model.tensors.get(node.input(0))
    usable = book is not None and book.type in FLOATS and len(book.shape) == 1 and book.count
    is_index = index in model.tensors and model.tensors[index].type in INDICES
    return index if usable and is_index and model.tensors[index].count > 1 else ""


def _others(name: str, node: OnnxNode) -> tuple[str, ...]:
    """Names that the weight may have had before quantization."""
    plain = _SUFFIX.sub("", name)
    outputs = () if node.operator == N_BITS else node.outputs
    return tuple(dict.fromkeys(other for other in (*outputs, plain) if other and other != name))


def _read_codebook(model: OnnxModel, node: OnnxNode, name: str) -> Read:
    """Gather of a codebook by indices; the axis is the only one."""
    book = node.input(0)
    model.require(book, FLOATS)
    constant = model.tensors[name]
    stored = constant.bits + model.tensors[book].bits
    damaged = partial(model.damaged, name)
    values = model.tensors[book].floats()
    return codebook_tensor(constant, constant.shape, values, stored, damaged), (name, book)


READERS: dict[str, Callable[[OnnxModel, OnnxNode, str], Read]] = {
    LINEAR: read_linear,
    N_BITS: read_n_bits,
    GATHER: _read_codebook,
}
"""The reader of the weights of each operator."""

ONNX = PackedFileFormat("ONNX", is_onnx, open_onnx)
