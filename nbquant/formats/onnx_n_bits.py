"""MatMulNBits of ONNX Runtime: rows of whole blocks, each with a scale, and perhaps a zero point.

Source: onnxruntime 1.32.0.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float32, UInt8

from nbquant.formats.onnx_model import OnnxModel, OnnxNode
from nbquant.formats.packed_tensor import PackedTensor, as_float32
from nbquant.formats.packed_words import unpack_bytes
from nbquant.quantization.blocks import formats as blocks
from nbquant.quantization.blocks.block_codes import BlockCodes
from nbquant.quantization.blocks.block_format import BlockFormat
from nbquant.tensorfile import FLOATS

BITS = (2, 4, 8)


@dataclass(frozen=True, eq=False)
class _Weight:
    """A weight: bytes of its rows, scales as stored and their type, and zero points if there are any."""

    format: BlockFormat
    columns: int
    data: UInt8[np.ndarray, "rows bytes"]
    scale: np.ndarray
    dtype: str
    zero: UInt8[np.ndarray, "rows groups"] | None

    def _rows(self, first: int, last: int) -> tuple[np.ndarray, tuple[int, int], dict[str, np.ndarray]]:
        parts = {"scale": as_float32(self.scale[first:last].reshape(-1), self.dtype)}
        if self.zero is not None:
            parts["zero_point"] = self.zero[first:last].reshape(-1)
        return self.data[first:last].reshape(-1), (last - first, self.columns), parts

    def codes(self, first: int, last: int) -> BlockCodes:
        return self.format.unpack(*self._rows(first, last))

    def values(self, first: int, last: int) -> Float32[np.ndarray, "rows columns"]:
        with np.errstate(over="ignore", invalid="ignore"):  # scales may be NaN or infinite
            return self.format.decode_bytes(*self._rows(first, last))


def read_n_bits(model: OnnxModel, node: OnnxNode, name: str) -> tuple[PackedTensor, tuple[str, ...]]:
    """Read the record of a weight.

    One of 2 bits, with zero points that are numbers, or with an order of columns, is listed but not decoded.

    Raises:
        ValueError: A missing part, or one that does not fit.
    """
    columns, rows, length = (node.numbers.get(key, 0) for key in ("K", "N", "block_size"))
    bits = node.numbers.get("bits", 4)
    if min(columns, rows, length) < 1 or bits not in BITS or length * bits % 8:
        raise model.damaged(
            name,
            f"must have rows, columns, and blocks of whole bytes, but has {rows} × {columns} in blocks of {length} of "
            f"{bits} bits",
        )
    groups = -(-columns // length)
    data = model.require(name, ("U8",), rows * groups * length * bits // 8).reshape(rows, -1)
    scales_name, zeros_name = node.input(2), node.input(3)
    scales = model.require(scales_name, FLOATS, rows * groups)
    used = (name, scales_name, *((zeros_name,) if zeros_name else ()))
    zeros = None
    if zeros_name and (zeros_name not in model.tensors or model.tensors[zeros_name].type not in FLOATS):
        packed = model.require(zeros_name, ("U8",), rows * -(-groups * bits // 8))
        zeros = unpack_bytes(packed.reshape(rows, -1), bits)[:, :groups]
    stored = sum(model.tensors[part].bits for part in used)
    known = f"matmul{bits}{'_asym' if zeros is not None else ''}"
    if node.input(4) or (zeros_name and zeros is None) or known not in blocks.names():
        return PackedTensor(name, (rows, columns), f"matmul{bits}", None, stored, None, None), used
    found = blocks.named(known).with_length(length)
    weight = _Weight(found, columns, data, scales.reshape(rows, groups), model.tensors[scales_name].type, zeros)
    codes, values = partial(_Weight.codes, weight), partial(_Weight.values, weight)
    return PackedTensor(name, (rows, columns), found.name, found, stored, codes, values), used
