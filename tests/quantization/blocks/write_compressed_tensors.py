"""Writes golden/compressed_tensors.npz: integers, MX formats, NVFP4 and FP8.

pip install compressed-tensors==0.20.1; python -m tests.quantization.blocks.write_compressed_tensors
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

from tests.quantization.blocks.samples import weights

INTEGERS: dict[str, dict[str, Any]] = {
    f"int{bits}{'' if symmetric else '_asym'}": {"num_bits": bits, "group_size": 128, "symmetric": symmetric}
    for bits in (2, 3, 4)
    for symmetric in (True, False)
}
FLOATS: dict[str, dict[str, Any]] = {
    f"mxfp{bits}": {"num_bits": bits, "group_size": 32, "scale_dtype": torch.uint8, "zp_dtype": torch.uint8}
    for bits in (4, 6, 8)
}
NVFP4 = {"num_bits": 4, "group_size": 16, "scale_dtype": torch.float8_e4m3fn, "zp_dtype": torch.int8}


def main() -> None:
    weight = torch.from_numpy(weights())
    found = {}
    kinds = {name: {**given, "strategy": "group"} for name, given in INTEGERS.items()}
    kinds |= {"int8_asym": {"num_bits": 8, "symmetric": False, "strategy": "channel"}}
    kinds |= {name: {**given, "type": "float", "strategy": "group"} for name, given in FLOATS.items()}
    kinds |= {"nvfp4": {**NVFP4, "type": "float", "strategy": "tensor_group"}}
    kinds |= {"fp8_e4m3/channel": {"num_bits": 8, "type": "float", "strategy": "channel"}}
    for name, given in kinds.items():
        arguments = QuantizationArgs(**given)
        groups = weight.reshape(len(weight), -1, given.get("group_size", weight.shape[1]))
        extra = {"global_scale": generate_gparam(groups.min(), groups.max())} if name == "nvfp4" else {}
        scale, zero = calculate_qparams(groups.amin(2), groups.amax(2), arguments, *extra.values())
        level = quantize(weight, scale, zero, arguments, **extra)
        found[f"{name}.level"] = level.float().numpy()
        found[f"{name}.scale"] = scale.float().numpy()
        found[f"{name}.decoded"] = dequantize(level, scale, zero, arguments, **extra).numpy()
        if not given.get("symmetric", True):
            found[f"{name}.zero_point"] = zero.numpy()
        if extra:
            found[f"{name}.global_scale"] = extra["global_scale"].numpy()
    # Levels are few, and those of −0 are told from 0.
    for name in list(found):
        if name.endswith(".level"):
            table, index = np.unique(found.pop(name).view(np.int32), return_inverse=True)
            found[f"{name}_table"], found[f"{name}_index"] = table.view(np.float32), index.astype(np.uint16)
        if name.endswith(".decoded"):
            del found[name]
    np.savez_compressed(Path(__file__).parent / "golden" / "compressed_tensors.npz", **found)


if __name__ == "__main__":
    main()
