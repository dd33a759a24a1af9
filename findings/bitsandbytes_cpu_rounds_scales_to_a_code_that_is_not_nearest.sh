#!/bin/bash
# bitsandbytes 0.50.2 on CPU: quantize_blockwise with the default dynamic map of 8 bits, as nested scales of Linear4bit use it.
#
# A good guess: each value, divided by its block's largest magnitude, gets the nearest of the map's 256 entries, as in the
# CUDA kernel, which searches the map.
#
# What happens: on CPU the nearest entry is looked up in a table of 65,536 steps over [-1, 1]. Where the map is finer than
# such a step, near zero, values get another entry than the nearest: the smallest scales of a layer are off by up to
# several entries. Another device gives other codes for the same weights.
#
# What nbquant does: nbquant.quantization.blocks.dynamic_map follows the CPU's table bit for bit in the plain encoder.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 bitsandbytes==0.50.2
"$folder/venv/bin/python" - <<'PYTHON'
import bitsandbytes as bnb
import torch
from bitsandbytes import functional

print("bitsandbytes", bnb.__version__, "torch", torch.__version__)
generator = torch.Generator().manual_seed(0)
values = torch.randn(1 << 16, generator=generator).exp().mul_(torch.randn(1 << 16, generator=generator).sign())
values = values * torch.logspace(-7, 0, 1 << 16)[torch.randperm(1 << 16, generator=generator)]
codes, state = functional.quantize_blockwise(values, blocksize=256)
scaled = values.reshape(-1, 256) / state.absmax[:, None]
map_ = state.code
nearest = (scaled.reshape(-1, 1) - map_).abs().min(1).values
chosen = (scaled.reshape(-1) - map_[codes.long()]).abs()
worse = chosen > nearest * 1.001 + 1e-9
small = scaled.reshape(-1).abs() < 1e-4
share = float(worse[small].float().mean())
print(f"{int(worse.sum()):,} of {len(values):,} codes are not nearest, {share:.0%} of those below 1e-4")
print(f"error over that of the nearest: {float((chosen[worse] / nearest[worse].clamp(min=1e-9)).median()):.2f} (median)")
assert worse[small].float().mean() > 0.05 and worse[~small].float().mean() < 0.05
PYTHON
# Seen:
# bitsandbytes 0.50.2 torch 2.13.0+cpu
# 27,478 of 65,536 codes are not nearest, 80% of those below 1e-4
# error over that of the nearest: 85.49 (median)
