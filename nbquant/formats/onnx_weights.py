"""Constants and nodes of ONNX that make a quantized weight: DequantizeLinear, or Gather from a codebook."""

from dataclasses import dataclass

import numpy as np
import torch

from nbquant.formats.onnx_writer import NUMBERS, OnnxConstant, OnnxOperation
from nbquant.quantization.blocks import formats as blocks
from nbquant.quantization.blocks.block_format import ROW, TENSOR
from nbquant.quantization.blocks.scaling import block_matrix
from nbquant.quantization.codebook import QuantizedTensor
from nbquant.tensorfile import FLOATS

LINEAR = (*blocks.INTEGERS, "fp8_e4m3", "fp8_e5m2")
"""Block formats that DequantizeLinear computes bit for bit."""
FLOAT8 = {"fp8_e4m3": "F8_E4M3", "fp8_e5m2": "F8_E5M2"}
_TYPES = {dtype: name for name, dtype in FLOATS.items()}

OPSETS = {"U8": 13, "I8": 13, "F8_E4M3": 19, "F8_E5M2": 19, "I4": 21, "U4": 21, "I2": 25, "U16": 13, "I32": 13}
"""Version of ONNX's operators that takes each type of codes."""
BLOCKS_SINCE = 21  # version in which DequantizeLinear takes blocks


@dataclass(frozen=True)
class OnnxWeight:
    """A weight as constants and nodes.

    Attributes:
        name: Name of the weight, which is the output of the last node.
        type: Name of its type.
        shape: Its shape.
        constants: Codes, scales, zero points, codebook.
        operations: Nodes in order.
        opset: Version of ONNX's operators that they need.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    constants: tuple[OnnxConstant, ...]
    operations: tuple[OnnxOperation, ...]
    opset: int


def onnx_weight(name: str, tensor: QuantizedTensor) -> OnnxWeight:
    """Make the constants and nodes of a quantized tensor.

    Raises:
        ValueError: A block format that ONNX's operators do not compute.
    """
    return _gathered(name, tensor) if tensor.scaling is None else _linear(name, tensor)


def _gathered(name: str, tensor: QuantizedTensor) -> OnnxWeight:
    """Indices into a codebook, to which an exact zero is added where weights are pruned."""
    book, index = tensor.codebook.detach().cpu(), tensor.assignment.cpu().numpy()
    if len(index) and index.min() < 0:
        index = np.where(index < 0, len(book), index)
        book = torch.cat([book, torch.zeros(1, dtype=book.dtype)])
    kind = _TYPES[book.dtype]
    stored = "U4" if len(book) <= 16 else "U8" if len(book) <= 256 else "U16" if len(book) <= 1 << 16 else "I32"
    dtype = {"U4": "|u1", "U8": "|u1", "U16": "<u2", "I32": "<i4"}[stored]
    shape = tuple(tensor.shape)
    values, codes, cast = f"{name}_codebook", f"{name}_quantized", f"{name}_index"
    constants = (
        constant(codes, stored, shape, index.astype(dtype)),
        constant(values, kind, (len(book),), book.contiguous().view(torch.uint8).numpy()),
    )
    operations = (
        OnnxOperation("Cast", (codes,), cast, {"to": NUMBERS["I32"]}),
        OnnxOperation("Gather", (values, cast), name, {"axis": 0}),
    )
    return OnnxWeight(name, kind, shape, constants, operations, OPSETS[stored])


def _linear(name: str, tensor: QuantizedTensor) -> OnnxWeight:
    scaling = tensor.scaling
    assert scaling is not None
    base = scaling.format.partition("/")[0]
    if base not in LINEAR:
        raise ValueError(
            f"DequantizeLinear of ONNX computes {', '.join(LINEAR)}, but {name!r} is in {scaling.format}: quantize it "
            "in one of them, or by a method with a codebook."
        )
    found, shape = blocks.named(scaling.format), tuple(tensor.shape)
    rows, columns = block_matrix(shape)
    encoded = scaling.encoded(tensor.assignment, shape)
    parts = {part.name: part.values for part in encoded.parts}
    if base in FLOAT8:
        stored, codes, zero = FLOAT8[base], encoded.codes, None
    else:
        level = found.levels[encoded.codes].astype(np.int16)
        low, high = int(found.levels.min()), int(found.levels.max())
        bits = 8 if high - low > 15 else 4 if high - low > 3 else 2
        stored = f"{'I' if low < 0 else 'U'}{bits}"
        codes, zero = level, parts.get("zero_point")
    numbers, matrix, scales = _layout(found.length, shape, rows, columns)
    inputs = [f"{name}_quantized", f"{name}_scale"]
    constants = [
        constant(inputs[0], stored, matrix, codes),
        constant(inputs[1], "F32", scales, parts["scale"].astype("<f4")),
    ]
    if zero is not None:
        inputs.append(f"{name}_zero_point")
        constants.append(constant(inputs[2], stored, scales, zero))
    kind = _TYPES[scaling.dtype]
    steps: list[tuple[str, tuple[str, ...], dict[str, int]]] = [("DequantizeLinear", tuple(inputs), numbers)]
    if matrix != shape:
        constants.append(constant(f"{name}_shape", "I64", (len(shape),), np.array(shape, "<i8")))
        steps.append(("Reshape", (f"{name}_shape",), {}))
    if kind != "F32":
        steps.append(("Cast", (), {"to": NUMBERS[kind]}))
    operations: list[OnnxOperation] = []
    before: tuple[str, ...] = ()
    for i, (operator, own, numbers) in enumerate(steps):
        output = name if i == len(steps) - 1 else f"{name}/{operator}"
        operations.append(OnnxOperation(operator, (*before, *own), output, numbers))
        before = (output,)
    opset = max(OPSETS[stored], BLOCKS_SINCE if "block_size" in steps[0][2] else 0)
    return OnnxWeight(name, kind, shape, tuple(constants), tuple(operations), opset)


def _layout(
    length: int, shape: tuple[int, ...], rows: int, columns: int
) -> tuple[dict[str, int], tuple[int, ...], tuple[int, ...]]:
    """Attributes of DequantizeLinear, the shape of the codes, and that of the scales."""
    if length == TENSOR or (rows == 1 and (length == ROW or length >= columns)):
        return {}, shape, ()
    if length == ROW or length >= columns:
        return {"axis": 0}, shape, (rows,)
    if len(shape) > 1 and shape[-1] % length:
        shape = (rows, columns)  # blocks run over several axes, which those of ONNX do not
    axis = len(shape) - 1
    return {"axis": axis, "block_size": length}, shape, (*shape[:axis], -(-shape[axis] // length))


def constant(name: str, kind: str, shape: tuple[int, ...], values: np.ndarray) -> OnnxConstant:
    """Make a constant of integers, packed if they have less than 8 bits, or of bytes at hand."""
    if kind[1:] in ("4", "2"):
        data = _packed(values.reshape(-1), int(kind[1:]))
    elif kind in ("I8", "U8"):
        data = values.astype(np.int16).astype(np.uint8)
    else:
        data = values
    raw = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    return OnnxConstant(name, kind, shape, lambda: [raw.data] if raw.size else [])


def _packed(values: np.ndarray, bits: int) -> np.ndarray:
    """Pack integers in two's complement, the first in the lowest bits of a byte."""
    each = 8 // bits
    whole = np.zeros(-(-values.size // each) * each, np.uint8)
    whole[: values.size] = values.astype(np.int16).astype(np.uint8) & np.uint8((1 << bits) - 1)
    shifted = whole.reshape(-1, each) << (np.arange(each, dtype=np.uint8) * np.uint8(bits))
    return np.bitwise_or.reduce(shifted, axis=1)
