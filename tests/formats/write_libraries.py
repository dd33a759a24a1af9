"""Writes golden/libraries.npz: small checkpoints by several libraries, and the weights that each makes of its own.

pip install optimum-quanto==0.2.7 hqq==0.2.8.post1 torchao==0.18.0 "mlx[cpu]==0.32.4" termcolor;
python -m tests.formats.write_libraries
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import optimum.quanto as quanto
import torch
from hqq.core.quantize import BaseQuantizeConfig, HQQLinear
from safetensors.torch import save
from torchao.prototype.mx_formats.mx_tensor import MXTensor
from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor
from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, IntxWeightOnlyConfig, PerGroup, quantize_
from torchao.quantization.quant_primitives import MappingType

GOLDEN = Path(__file__).parent / "golden" / "libraries.npz"
ROWS, COLUMNS = 12, 64

Sample = tuple[str, bytes, torch.Tensor, dict]
"""Name, file, weight, configuration."""


def linear(columns: int = COLUMNS, bias: bool = True) -> torch.nn.Module:
    net = torch.nn.Module()
    net.net = torch.nn.Linear(columns, ROWS, bias=bias)
    return net


def of_quanto() -> Iterator[Sample]:
    kinds = {"int8": quanto.qint8, "int4": quanto.qint4, "int2": quanto.qint2}
    kinds |= {"fp8": quanto.qfloat8_e4m3fn, "fp8 e5m2": quanto.qfloat8_e5m2}
    for name, kind in kinds.items():
        for columns in (COLUMNS, 256) if name in ("int4", "int2") else (COLUMNS,):
            net = linear(columns)
            quanto.quantize(net, weights=kind)
            quanto.freeze(net)
            raw = save({k: v.clone() for k, v in net.state_dict().items()})
            yield f"quanto {name}{' groups' * (columns > COLUMNS)}", raw, net.net.weight.dequantize(), {}


def of_hqq() -> Iterator[Sample]:
    for bits in (8, 6, 5, 4, 3, 2, 1):
        for axis in (0, 1):
            config = BaseQuantizeConfig(nbits=bits, group_size=16, axis=axis)
            layer = HQQLinear(linear().net, quant_config=config, compute_dtype=torch.float32, device="cpu")
            state = {f"net.{k}": torch.as_tensor(v).contiguous() for k, v in layer.state_dict().items()}
            yield f"HQQ {bits} axis {axis}", save(state), layer.dequantize(), {}


def of_torchao() -> Iterator[Sample]:
    configs = {
        "int8": Int8WeightOnlyConfig(version=2),
        "fp8": Float8WeightOnlyConfig(),
        "int4": IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32)),
        "int3 asymmetric": IntxWeightOnlyConfig(
            weight_dtype=torch.int3, granularity=PerGroup(32), mapping_type=MappingType.ASYMMETRIC
        ),
    }
    for name, config in configs.items():
        net = linear()
        quantize_(net, config)
        state = {k: v.data if isinstance(v, torch.nn.Parameter) else v for k, v in net.state_dict().items()}
        tensors, metadata = flatten_tensor_state_dict(state)
        yield f"torchao {name}", save(tensors, metadata), state["net.weight"].dequantize(), {}
    weight = linear().net.weight.data
    for name, made in {
        "mxfp8": MXTensor.to_mx(weight, torch.float8_e4m3fn, 32),
        "mxfp4": MXTensor.to_mx(weight, torch.float4_e2m1fn_x2, 32),
        "nvfp4": NVFP4Tensor.to_nvfp4(weight),
        "nvfp4 tensor scale": NVFP4Tensor.to_nvfp4(weight, per_tensor_scale=torch.tensor(0.0017)),
    }.items():
        tensors, metadata = flatten_tensor_state_dict({"net.weight": made})
        yield f"torchao {name}", save(tensors, metadata), made.dequantize(), {}


def of_mlx() -> Iterator[Sample]:
    weight = mx.array(linear(128).net.weight.data.numpy())
    affine = {f"{bits}": ("affine", bits, 64) for bits in (2, 3, 4, 5, 6, 8)}
    affine["4 groups of 32"] = ("affine", 4, 32)
    for name, (mode, bits, length) in {
        **affine,
        "mxfp4": ("mxfp4", 4, 32),
        "mxfp8": ("mxfp8", 8, 32),
        "nvfp4": ("nvfp4", 4, 16),
    }.items():
        parts = mx.quantize(weight, group_size=length, bits=bits, mode=mode)
        named = dict(zip(("net.weight", "net.scales", "net.biases"), parts, strict=False))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "m.safetensors"
            mx.save_safetensors(str(path), named)
            raw = path.read_bytes()
        decoded = mx.dequantize(*parts, group_size=length, bits=bits, mode=mode).astype(mx.float32)
        config = {"group_size": length, "bits": bits, "mode": mode}
        yield f"MLX {name}", raw, torch.from_numpy(np.array(decoded)), config


def main() -> None:
    torch.manual_seed(0)
    found = {}
    for library in (of_quanto, of_hqq, of_torchao, of_mlx):
        for name, raw, weight, config in library():
            found[f"{name}/file"] = np.frombuffer(raw, np.uint8)
            found[f"{name}/weight"] = weight.detach().float().numpy()
            found[f"{name}/config"] = np.array(json.dumps({"quantization": config}) if config else "")
    np.savez_compressed(GOLDEN, **found)


if __name__ == "__main__":
    main()
