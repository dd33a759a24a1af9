"""Writes golden/gptq_awq.npz: small layers packed by GPTQModel and AutoAWQ, and the weights that these make of them.

It also checks that GPTQModel makes of what nbquant exports the weights of nbquant.

pip install gptqmodel==7.7.0 autoawq==0.2.9; python -m tests.formats.write_gptq_awq
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from awq.modules.linear.gemm import WQLinear_GEMM
from awq.utils.packing_utils import dequantize_gemm
from gptqmodel.nn_modules.qlinear.torch import TorchLinear
from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module, convert_gptq_v2_to_v1_format_module
from safetensors.torch import load_file, save

import nbquant as nq
from tests.storage.test_export_safetensors import GPTQ, exported, network, with_short_scales

GOLDEN = Path(__file__).parent / "golden" / "gptq_awq.npz"
ROWS, COLUMNS, GROUP = 32, 96, 32


def grid(weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and zero points of groups, rows × groups."""
    groups = weight.reshape(ROWS, -1, GROUP)
    low, high = groups.amin(2), groups.amax(2)
    scale = ((high - low) / (2**bits - 1)).half().float()
    return scale, torch.round(-low / scale).clamp(1, 2**bits - 1)


def layer_of(bits: int, group: int = GROUP, symmetric: bool = False) -> TorchLinear:
    options = {"sym": symmetric, "desc_act": False, "in_features": COLUMNS, "out_features": ROWS, "bias": False}
    return TorchLinear(bits=bits, group_size=group, **options)


def gptq(bits: int, act_order: bool, version_1: bool) -> tuple[bytes, torch.Tensor, dict]:
    linear = torch.nn.Linear(COLUMNS, ROWS, bias=False)
    layer, (scale, zero) = layer_of(bits), grid(linear.weight.data, bits)
    index = torch.arange(COLUMNS) // GROUP
    index = index[torch.randperm(COLUMNS)] if act_order else index
    layer.pack_original(linear, scale, zero, index.int())
    layer.post_init()
    weight = layer.dequantize_weight().T
    if version_1:
        convert_gptq_v2_to_v1_format_module(layer, quantize_config=Config(bits))
    state = {f"net.{name}": value.contiguous() for name, value in layer.state_dict().items()}
    config = {"quant_method": "gptq", "bits": bits, "checkpoint_format": "gptq" if version_1 else "gptq_v2"}
    return save(state), weight, config


class Config:
    def __init__(self, bits: int) -> None:
        self.bits, self.pack_dtype, self.sym = bits, torch.int32, False


def awq() -> tuple[bytes, torch.Tensor, dict]:
    linear = torch.nn.Linear(COLUMNS, ROWS, bias=False)
    scale, zero = grid(linear.weight.data, 4)
    layer = WQLinear_GEMM.from_linear(linear, 4, GROUP, scales=scale.T.contiguous(), zeros=zero.T.contiguous())
    weight = dequantize_gemm(layer.qweight, layer.qzeros, layer.scales, 4, GROUP).T
    return save({f"net.{name}": value.contiguous() for name, value in layer.state_dict().items()}), weight, {}


def check_export(which: str) -> None:
    net = network()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.safetensors"
        quantized = with_short_scales(exported(net, which, path, "gptq"))
        nq.export(quantized, path, net, format="gptq", progress=False)
        config = json.loads((Path(folder) / "config.json").read_text())["quantization_config"]
        state = {
            k.removeprefix("fc."): v for k, v in load_file(path).items() if k.startswith("fc.") and "bias" not in k
        }
    layer = layer_of(config["bits"], config["group_size"], config["sym"])
    layer.load_state_dict(state)
    if config["checkpoint_format"] == "gptq":
        convert_gptq_v1_to_v2_format_module(layer, bits=config["bits"], pack_dtype=torch.int32)
    layer.post_init()
    assert torch.equal(layer.dequantize_weight().T, quantized.dequantize()["fc.weight"].half()), which


def main() -> None:
    torch.manual_seed(0)
    made = {
        f"GPTQ {bits}{' act-order' * act}": gptq(bits, act, False) for bits in (2, 3, 4, 8) for act in (False, True)
    }
    made |= {f"GPTQ {bits} first version": gptq(bits, False, True) for bits in (2, 3, 4, 8)}
    found = {}
    for name, (raw, weight, config) in {**made, "AWQ": awq()}.items():
        found[f"{name}/file"] = np.frombuffer(raw, np.uint8)
        found[f"{name}/weight"] = weight.detach().half().numpy()
        found[f"{name}/config"] = np.array(json.dumps({"quantization_config": config}) if config else "")
    np.savez_compressed(GOLDEN, **found)
    for which in GPTQ:
        check_export(which)


if __name__ == "__main__":
    main()
