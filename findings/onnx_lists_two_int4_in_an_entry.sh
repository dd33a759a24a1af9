#!/bin/bash
# onnx 1.23.2: a tensor of INT4 that is given as a list of numbers.
#
# A good guess: int32_data holds one entry for each number, as it does for INT8, BOOL and FLOAT16, so that six numbers are six
# entries.
#
# What happens: int32_data holds a byte in each entry, and a byte two numbers, the first in the low bits. Six numbers are
# three entries of 0 to 255, so that negative numbers do not come back as they are. An odd number leaves half a byte.
#
# What nbquant does: nbquant.formats.constant reads the entries as bytes for types of 4 and 2 bits.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import onnx
from onnx import TensorProto, helper, numpy_helper

print("onnx", onnx.__version__)
numbers = [-8, -1, 0, 1, 7, 3]
eight = helper.make_tensor("eight", TensorProto.INT8, [6], numbers)
four = helper.make_tensor("four", TensorProto.INT4, [6], numbers)
odd = helper.make_tensor("odd", TensorProto.INT4, [5], numbers[:5])
for tensor in (eight, four, odd):
    print(tensor.name, list(tensor.int32_data), "raw", len(tensor.raw_data), "reads", numpy_helper.to_array(tensor).astype(int).tolist())
assert len(eight.int32_data) == 6
assert list(four.int32_data) == [0xF8, 0x10, 0x37]
assert len(odd.int32_data) == 3
PYTHON
# Seen:
# onnx 1.23.2
# eight [-8, -1, 0, 1, 7, 3] raw 0 reads [-8, -1, 0, 1, 7, 3]
# four [248, 16, 55] raw 0 reads [-8, -1, 0, 1, 7, 3]
# odd [248, 16, 7] raw 0 reads [-8, -1, 0, 1, 7]
