"""Writes golden/torchao.npz: int8 weights, one scale a row.

pip install torchao==0.18.0; python -m tests.quantization.blocks.write_torchao
"""

from pathlib import Path

import numpy as np
import torch
from torchao.quantization import Int8WeightOnlyConfig, quantize_

from tests.quantization.blocks.samples import weights


def main() -> None:
    weight = torch.from_numpy(weights())
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight
    network = torch.nn.Sequential(layer)
    quantize_(network, Int8WeightOnlyConfig())
    found = network[0].weight
    np.savez_compressed(
        Path(__file__).parent / "golden" / "torchao.npz",
        codes=found.qdata.numpy(),
        scale=found.scale.reshape(-1).numpy(),
        decoded=found.dequantize().detach().numpy(),
    )


if __name__ == "__main__":
    main()
