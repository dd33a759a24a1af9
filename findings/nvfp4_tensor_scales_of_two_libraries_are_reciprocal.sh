#!/bin/bash
# compressed-tensors 0.20.1 and torchao 0.18.0: the scale of a whole tensor in NVFP4.
#
# A good guess: both store the same float32 number beside the same codes, so that a reader of one reads the other after
# renaming the tensors.
#
# What happens: compressed-tensors stores 448 · 6 / max|w|, by which the scales of blocks are divided; torchao stores
# max|w| / (448 · 6), by which they are multiplied. Nothing in either file says which. A reader that takes one for the other
# gives weights that are wrong by the square of that number.
#
# What nbquant does: nbquant.formats.compressed_tensors and nbquant.formats.torchao read each as its own library.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 compressed-tensors==0.20.1 torchao==0.18.0
"$folder/venv/bin/python" - <<'PYTHON'
import compressed_tensors
import torch
import torchao
from compressed_tensors.quantization.utils import generate_gparam
from torchao.prototype.mx_formats.nvfp4_tensor import per_tensor_amax_to_scale

print("compressed-tensors", compressed_tensors.__version__, "torchao", torchao.__version__)
weight = 0.02 * torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
theirs = float(generate_gparam(weight.min(), weight.max()))
others = float(per_tensor_amax_to_scale(weight.abs().max()))
print(f"compressed-tensors {theirs:.6g}, torchao {others:.6g}, product {theirs * others:.6f}")
assert theirs > 1e4 > 1e-4 > others
assert abs(theirs * others - 1) < 1e-5
PYTHON
# Seen:
# compressed-tensors 0.20.1 torchao 0.18.0
# compressed-tensors 32768.6, torchao 3.05171e-05, product 1.000000
