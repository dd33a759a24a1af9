#!/bin/bash
# hqq 0.2.8.post1: bytes that a weight takes by its number of bits.
#
# A good guess: b bits take b bits, so that 5 bits are smaller than 6, and 6 smaller than 8.
#
# What happens: 5 and 6 bits are stored a byte each, as 8 bits are. 3 bits are ten to an int32, 3.2 bits and more, as rows are
# padded to ten. Only 1, 2, 4 and 8 bits take what they say.
#
# What nbquant does: nbquant.formats.hqq counts the bits that are stored.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 hqq==0.2.8.post1
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from hqq.core.quantize import Quantizer

weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
bits = {}
for n in (1, 2, 3, 4, 5, 6, 8):
    packed, _ = Quantizer.quantize(weight, nbits=n, group_size=64, device="cpu", compute_dtype=torch.float32)
    bits[n] = 8 * packed.numel() * packed.element_size() / weight.numel()
    print(f"{n} bits: {packed.dtype}, {bits[n]:.3f} bit/weight")
assert bits[5] == bits[6] == bits[8] == 8
assert bits[3] > 3.1
assert all(bits[n] == n for n in (1, 2, 4))
PYTHON
# Seen:
# 1 bits: torch.uint8, 1.000 bit/weight
# 2 bits: torch.uint8, 2.000 bit/weight
# 3 bits: torch.int32, 3.500 bit/weight
# 4 bits: torch.uint8, 4.000 bit/weight
# 5 bits: torch.uint8, 8.000 bit/weight
# 6 bits: torch.uint8, 8.000 bit/weight
# 8 bits: torch.uint8, 8.000 bit/weight
