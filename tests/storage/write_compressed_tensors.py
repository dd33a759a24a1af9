"""Writes golden/compressed_tensors.npz: exported weights, and what compressed-tensors decompresses them to.

pip install compressed-tensors==0.20.1; python -m tests.storage.write_compressed_tensors
"""

import json
import tempfile
from pathlib import Path

import numpy as np
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig
from safetensors.torch import load_file

import nbquant as nq
from tests.storage.test_export_safetensors import COMPRESSED, GOLDEN, bits, network


def main() -> None:
    found = {}
    for which in COMPRESSED:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "m.safetensors"
            net = network()
            quantized = nq.BlockQuantizer(formats=(which,), search=False).fit(nq.select(net, layers=["fc.weight"]))
            nq.export(quantized, path, net, format="compressed-tensors", progress=False)
            about = json.loads((Path(folder) / "config.json").read_text())["quantization_config"]
            config = QuantizationConfig.model_validate(about)
            (scheme,) = config.config_groups.values()
            own = {k.removeprefix("fc."): v for k, v in load_file(path).items() if k.startswith("fc.weight")}
            found |= {f"{which}/{name}": bits(part) for name, part in own.items()}
        compressor = BaseCompressor.get_value_from_registry(config.format)
        weight = compressor.decompress(own, scheme)["weight"]
        found[f"{which}/decompressed"] = weight.float().numpy()
        assert (weight == quantized.dequantize()["fc.weight"]).all(), which
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, **found)


if __name__ == "__main__":
    main()
