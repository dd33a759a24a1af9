"""Writes golden/ggml.npz: bytes of ggml's reference encoders, for formats that gguf's Python only decodes.

pip install libggml-python==0.20.2.post1; python -m tests.quantization.blocks.write_ggml
"""

import ctypes
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from tests.quantization.blocks.samples import weights

SIZES = {"q2_K": 84, "q3_K": 110, "q4_K": 144, "q5_K": 176, "q6_K": 210, "iq4_nl": 18, "nvfp4": 36}  # bytes of a block
LENGTHS = {"iq4_nl": 32, "nvfp4": 64}


def main() -> None:
    package = find_spec("libggml")
    assert package is not None, "libggml-python is not installed"
    assert package.origin is not None
    library = ctypes.CDLL(str(Path(package.origin).parent / "lib64" / "libggml-base.so"))
    weight = weights()
    found = {}
    for name, size in SIZES.items():
        data = np.zeros(weight.size // LENGTHS.get(name, 256) * size, np.uint8)
        encode = getattr(library, f"quantize_row_{name}_ref")
        encode(ctypes.c_void_p(weight.ctypes.data), ctypes.c_void_p(data.ctypes.data), ctypes.c_int64(weight.size))
        found[name.lower()] = data
    np.savez_compressed(Path(__file__).parent / "golden" / "ggml.npz", **found)


if __name__ == "__main__":
    main()
