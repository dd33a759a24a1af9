"""Writes golden/bitsandbytes.npz: NF4 and FP4 with single and double-quantized scales, encoded on the CPU.

pip install bitsandbytes==0.50.2; python -m tests.quantization.blocks.write_bitsandbytes
"""

from pathlib import Path

import bitsandbytes.functional as bnb
import numpy as np
import torch

from tests.quantization.blocks.samples import padded_weights, weights


def main() -> None:
    found = {}
    # Odd in number, so that the last block is not full and half of the last byte is padding.
    odd = np.ascontiguousarray(padded_weights()[:23, :99])
    for what, weight in (("", weights()), ("odd_", odd)):
        for kind in ("nf4", "fp4"):
            for double in (False, True):
                packed, state = bnb.quantize_4bit(torch.from_numpy(weight), quant_type=kind, compress_statistics=double)
                name = f"{what}{kind}{'_double' * double}"
                found[f"{name}.codes"] = packed.numpy().reshape(-1)
                found[f"{name}.scale"] = state.absmax.numpy()
                found[f"{name}.decoded"] = bnb.dequantize_4bit(packed, state).numpy()
                if double:
                    found[f"{name}.nested_scale"] = state.state2.absmax.numpy()
                    found[f"{name}.offset"] = state.offset.numpy().reshape(1)
    found["map"] = bnb.create_dynamic_map().numpy()
    np.savez_compressed(Path(__file__).parent / "golden" / "bitsandbytes.npz", **found)


if __name__ == "__main__":
    main()
