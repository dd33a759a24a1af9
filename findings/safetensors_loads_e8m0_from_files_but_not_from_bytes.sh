#!/bin/bash
# safetensors 0.8.0 with torch 2.13.0: a file with a tensor of float8_e8m0fnu, the scales of MX formats.
#
# A good guess: safetensors.torch.load(bytes) reads whatever safetensors.torch.save writes, as safe_open does.
#
# What happens: save writes the type F8_E8M0, and safe_open and load_file read it; load(bytes) raises KeyError: 'F8_E8M0',
# as the table of types of that function does not have it.
#
# What nbquant does: nbquant.tensorfile maps files and reads the type itself.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 safetensors==0.8.0
"$folder/venv/bin/python" - <<'PYTHON'
import os
import tempfile

import safetensors
import torch
from safetensors.torch import load, load_file, save, save_file

print("safetensors", safetensors.__version__, "torch", torch.__version__)
tensors = {"scale": torch.full((4,), 127, dtype=torch.uint8).view(torch.float8_e8m0fnu)}
path = os.path.join(tempfile.mkdtemp(), "m.safetensors")
save_file(tensors, path)
print("load_file:", load_file(path)["scale"].dtype)
try:
    load(save(tensors))
except KeyError as error:
    print("load: KeyError", error)
else:
    raise SystemExit("load reads it now")
PYTHON
# Seen:
# safetensors 0.8.0 torch 2.13.0+cpu
# load_file: torch.float8_e8m0fnu
# load: KeyError 'F8_E8M0'
