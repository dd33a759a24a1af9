#!/bin/bash
# gguf 0.19.0 (GGML_QUANT_SIZES) and libggml-python 0.20.2 (ggml_type_size): bytes of a block, by type.
#
# A good guess: gguf's table of weights and bytes per block is that of ggml, whose files it reads and writes, for every type
# that both know. A difference would make every file unreadable.
#
# What happens: the table differs for one type: Q8_1 has 40 bytes in gguf, as if scale and sum were float32, and 36 in ggml,
# where both are float16. It goes unnoticed, as Q8_1 holds activations during a product and never lies in a file.
#
# What nbquant does: nbquant.formats.gguf has no Q8_1; a file with that type is refused as of an unknown type.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check gguf==0.19.0 libggml-python==0.20.2
"$folder/venv/bin/python" - <<'PYTHON'
import ctypes
from importlib.metadata import version
from pathlib import Path

import gguf
import libggml

print("gguf", version("gguf"), "libggml-python", version("libggml-python"))
folder = Path(libggml.__file__).parent
library = ctypes.CDLL(str(next(folder.rglob("libggml-base*.so*"))))
library.ggml_type_size.restype = ctypes.c_size_t
library.ggml_blck_size.restype = ctypes.c_int64
compared, other = 0, {}
for kind, (length, size) in gguf.GGML_QUANT_SIZES.items():
    theirs = library.ggml_blck_size(int(kind)), library.ggml_type_size(int(kind))
    compared += theirs[0] > 0
    if theirs[0] > 0 and theirs != (length, size):
        other[kind.name] = (length, size), theirs
print(compared, "types compared; different:", other)
assert compared > 25 and other == {"Q8_1": ((32, 40), (32, 36))}, other
PYTHON
# Seen:
# gguf 0.19.0 libggml-python 0.20.2
# 34 types compared; different: {'Q8_1': ((32, 40), (32, 36))}
