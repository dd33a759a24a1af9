"""Writes golden/onnxruntime.npz: MatMulNBits with padding, and int8 per channel.

pip install onnxruntime==1.32.0 onnx==1.23.2; python -m tests.quantization.blocks.write_onnxruntime
"""

from pathlib import Path

import numpy as np
import onnx
from onnxruntime.capi import _pybind_state
from onnxruntime.quantization.quant_utils import quantize_data

from tests.quantization.blocks.samples import padded_weights, weights

BLOCK = 32


def main() -> None:
    found = {}
    weight = padded_weights()
    rows, columns = weight.shape
    blocks = -(-columns // BLOCK)
    for bits in (4, 8):
        for symmetric in (True, False):
            data = np.zeros((rows, blocks, BLOCK * bits // 8), np.uint8)
            scale = np.zeros(rows * blocks, np.float32)
            zero = np.zeros(rows * -(-blocks * bits // 8), np.uint8)
            encode = getattr(_pybind_state, f"quantize_matmul_{bits}bits")
            encode(data, np.ascontiguousarray(weight.T), scale, zero, BLOCK, rows, columns, symmetric)
            name = f"matmul{bits}{'' if symmetric else '_asym'}"
            found[f"{name}.bytes"], found[f"{name}.scale"] = data.reshape(-1), scale
            if not symmetric:
                found[f"{name}.zero_point"] = zero.reshape(rows, -1)
    whole = weights()
    encoded = [quantize_data(row, onnx.TensorProto.INT8, True)[-3:] for row in whole]
    found["int8.scale"] = np.array([scale for _, scale, _ in encoded], np.float32)
    found["int8.codes"] = np.array([codes for _, _, codes in encoded]).astype(np.int8)
    np.savez_compressed(Path(__file__).parent / "golden" / "onnxruntime.npz", **found)


if __name__ == "__main__":
    main()
