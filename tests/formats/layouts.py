"""Packers of quantized weights by the published layouts, in plain numpy, and the weights that they stand for."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

GOLDEN = Path(__file__).parents[1] / "quantization" / "blocks" / "golden"
BITSANDBYTES = np.load(GOLDEN / "bitsandbytes.npz")
COMPRESSED_TENSORS = np.load(GOLDEN / "compressed_tensors.npz")
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class Packed:
    """A packed weight.

    Attributes:
        tensors: Parts by name.
        name: Name of the codes.
        kind: Name of the block format.
        weight: Weights that these stand for.
        config: What the configuration says.
    """

    tensors: dict[str, torch.Tensor]
    name: str
    kind: str
    weight: np.ndarray
    config: dict | None = None

    def write(self, folder: Path) -> Path:
        """Write a checkpoint with a bias and a norm beside the weight."""
        folder.mkdir(exist_ok=True)
        others = {"net.bias": torch.ones(3, dtype=torch.bfloat16), "norm.weight": torch.full((5,), 2.0)}
        save_file({**self.tensors, **others}, folder / "m.safetensors")
        if self.config is not None:
            (folder / "config.json").write_text(json.dumps({"quantization_config": self.config}))
        return folder / "m.safetensors"


def _words(values: list[int]) -> torch.Tensor:
    return torch.from_numpy(np.array(values, np.uint64).astype(np.uint32).view(np.int32))


def _three_bit_words(v: list[int]) -> list[int]:
    """32 integers of three bits in three words: ten and two thirds, ten and two thirds, ten and two thirds."""
    first = sum(v[j] << 3 * j for j in range(10)) | (v[10] & 3) << 30
    second = v[10] >> 2 | sum(v[11 + j] << 3 * j + 1 for j in range(10)) | (v[21] & 1) << 31
    third = v[21] >> 1 | sum(v[22 + j] << 3 * j + 2 for j in range(10))
    return [first, second, third]


def _line(values: np.ndarray, bits: int) -> list[int]:
    v = [int(x) for x in values]
    if bits == 3:
        return [word for start in range(0, len(v), 32) for word in _three_bit_words(v[start : start + 32])]
    each = 32 // bits
    return [sum(x << bits * k for k, x in enumerate(v[start : start + each])) for start in range(0, len(v), each)]


def gptq(bits=4, act_order=False, version=1, rows=64, columns=96, group=32, index=True, seed=0) -> Packed:
    rng = np.random.default_rng(seed)
    q, groups = rng.integers(0, 1 << bits, (rows, columns)), columns // group
    z = rng.integers(0, 1 << bits, (rows, groups))
    scale = rng.uniform(0.001, 0.1, (rows, groups)).astype(np.float16)
    g = np.arange(columns) // group
    if act_order:
        g = rng.permutation(g)
    stored = z if version == 2 else (z - 1) % (1 << bits)
    tensors = {
        "net.qweight": torch.stack([_words(_line(q[i], bits)) for i in range(rows)], dim=1).contiguous(),
        "net.qzeros": torch.stack([_words(_line(stored[:, k], bits)) for k in range(groups)]),
        "net.scales": torch.from_numpy(scale.T.copy()),
    }
    if index:
        tensors["net.g_idx"] = torch.from_numpy(g.astype(np.int32))
    weight = scale.astype(np.float32)[:, g] * (q - z[:, g]).astype(np.float32)
    config = {"quant_method": "gptq", "checkpoint_format": "gptq_v2"} if version == 2 else None
    return Packed(tensors, "net.qweight", f"int{bits}_asym/{group}", weight, config)


def awq(rows=64, columns=96, group=32) -> Packed:
    rng = np.random.default_rng(1)
    q, z = rng.integers(0, 16, (rows, columns)), rng.integers(0, 16, (rows, columns // group))
    scale = rng.uniform(0.001, 0.1, z.shape).astype(np.float16)

    def interleaved(values):
        return torch.stack(
            [
                _words([sum(int(line[8 * c + AWQ_ORDER[i]]) << 4 * i for i in range(8)) for c in range(rows // 8)])
                for line in values.T
            ]
        )

    tensors = {
        "net.qweight": interleaved(q),
        "net.qzeros": interleaved(z),
        "net.scales": torch.from_numpy(scale.T.copy()),
    }
    g = np.arange(columns) // group
    weight = scale.astype(np.float32)[:, g] * (q - z[:, g]).astype(np.float32)
    return Packed(tensors, "net.qweight", f"int4_asym/{group}", weight)


def compressed(
    bits=4,
    asymmetric=False,
    act_order=False,
    rows=21,
    columns=96,
    group=32,
    channel=False,
    dtype=torch.bfloat16,
    dense=True,
) -> Packed:
    rng = np.random.default_rng(2)
    half, group = 1 << bits - 1, columns if channel else group
    groups = columns // group
    q, z = (rng.integers(-half, half, shape) for shape in ((rows, columns), (rows, groups)))
    scale = torch.from_numpy(rng.uniform(0.001, 0.1, z.shape)).to(dtype)
    g = np.arange(columns) // group
    if act_order:
        g = rng.permutation(g)
    tensors = {
        "net.weight_packed": torch.stack([_words(_packed_line(q[i] + half, bits, dense)) for i in range(rows)]),
        "net.weight_scale": scale,
        "net.weight_shape": torch.tensor([rows, columns]),
    }
    if asymmetric:
        lines = [_words(_packed_line(z[:, k] + half, bits, dense)) for k in range(groups)]
        tensors["net.weight_zero_point"] = torch.stack(lines, dim=1).contiguous()
    if act_order:
        tensors["net.weight_g_idx"] = torch.from_numpy(g.astype(np.int32))
    point = z if asymmetric else np.zeros_like(z)
    weight = scale.float().numpy()[:, g] * (q - point[:, g]).astype(np.float32)
    kind = f"int{bits}{'_asym' * asymmetric}/{'channel' if channel else group}"
    return Packed(tensors, "net.weight_packed", kind, weight)


def _packed_line(values: np.ndarray, bits: int, dense: bool) -> list[int]:
    """Integers across words, as compressed-tensors 0.20.1 packs them, or as many in a word as fit."""
    v = [int(x) for x in values]
    if dense:
        whole = sum(x << bits * k for k, x in enumerate(v))
        return [whole >> 32 * k & 0xFFFFFFFF for k in range(-(-len(v) * bits // 32))]
    each = 32 // bits
    return [sum(x << bits * k for k, x in enumerate(v[start : start + each])) for start in range(0, len(v), each)]


def whole_integers(asymmetric=False, one=False) -> Packed:
    rng = np.random.default_rng(3)
    q = rng.integers(-128, 128, (21, 40))
    z = rng.integers(-9, 9, (1 if one else 21, 1))
    scale = rng.uniform(0.001, 0.1, z.shape).astype(np.float32)
    tensors = {"net.weight": torch.from_numpy(q.astype(np.int8)), "net.weight_scale": torch.from_numpy(scale)}
    if asymmetric:
        tensors["net.weight_zero_point"] = torch.from_numpy(z.astype(np.int8))
    weight = scale * (q - z * asymmetric).astype(np.float32)
    return Packed(tensors, "net.weight", f"int8{'_asym' * asymmetric}/{'tensor' if one else 'channel'}", weight)


def golden_floats(name: str) -> Packed:
    """Levels and scales that compressed-tensors computed: nvfp4 or mxfp4."""
    golden = {key.removeprefix(f"{name}."): COMPRESSED_TENSORS[key] for key in COMPRESSED_TENSORS.files if name in key}
    level = golden["level_table"][golden["level_index"]].reshape(24, 512)
    code = np.abs(level[..., None]).__eq__(E2M1).argmax(-1).astype(np.uint8) | np.signbit(level).astype(np.uint8) << 3
    scale = golden["scale"].reshape(24, -1)
    tensors = {"net.weight_packed": torch.from_numpy(code[:, ::2] | code[:, 1::2] << 4)}
    if name == "nvfp4":
        tensors["net.weight_scale"] = torch.from_numpy(scale).to(torch.float8_e4m3fn)
        tensors["net.weight_global_scale"] = torch.from_numpy(golden["global_scale"].reshape(1))
        scale = scale / golden["global_scale"].reshape(1)
    else:
        tensors["net.weight_scale"] = torch.from_numpy((np.log2(scale) + 127).astype(np.uint8))
    return Packed(tensors, "net.weight_packed", name, np.repeat(scale, 512 // scale.shape[1], axis=1) * level)


def golden_integers(name: str) -> Packed:
    """Levels, scales and zero points that compressed-tensors computed, in groups of 128."""
    golden = {
        k.removeprefix(f"{name}."): COMPRESSED_TENSORS[k] for k in COMPRESSED_TENSORS.files if k.startswith(name + ".")
    }
    bits = int(name[3])
    level = golden["level_table"][golden["level_index"]].reshape(24, 512).astype(int)
    scale, half = golden["scale"].reshape(24, -1), 1 << bits - 1
    tensors = {
        "net.weight_packed": torch.stack([_words(_packed_line(row + half, bits, True)) for row in level]),
        "net.weight_scale": torch.from_numpy(scale),
        "net.weight_shape": torch.tensor([24, 512]),
    }
    zero = golden.get("zero_point", np.zeros(scale.shape)).reshape(24, -1).astype(int)
    if "zero_point" in golden:
        lines = [_words(_packed_line(zero[:, k] + half, bits, True)) for k in range(zero.shape[1])]
        tensors["net.weight_zero_point"] = torch.stack(lines, dim=1).contiguous()
    level = (level - np.repeat(zero, 128, axis=1)).astype(np.float32)
    return Packed(tensors, "net.weight_packed", f"{name}/128", np.repeat(scale, 128, axis=1) * level)


def bitsandbytes(kind="nf4", double=False, odd=False) -> Packed:
    """Bytes that bitsandbytes wrote."""
    key = f"{'odd_' * odd}{kind}{'_double' * double}"
    shape = (23, 99) if odd else (24, 512)
    state = {"quant_type": kind, "blocksize": 64, "dtype": "float32", "shape": list(shape)}
    levels = np.sort(np.load(GOLDEN / "bitsandbytes.npz")["map"])
    tensors = {
        "net.weight": torch.from_numpy(BITSANDBYTES[f"{key}.codes"]).reshape(-1, 1),
        "net.weight.absmax": torch.from_numpy(BITSANDBYTES[f"{key}.scale"]),
        "net.weight.quant_map": torch.tensor(NF4 if kind == "nf4" else FP4),
    }
    if double:
        tensors["net.weight.nested_absmax"] = torch.from_numpy(BITSANDBYTES[f"{key}.nested_scale"])
        tensors["net.weight.nested_quant_map"] = torch.from_numpy(levels)
        state |= {"nested_blocksize": 256, "nested_dtype": "float32"}
        state["nested_offset"] = float(BITSANDBYTES[f"{key}.offset"][0])
    raw = np.frombuffer(json.dumps(state).encode(), np.uint8).copy()
    tensors[f"net.weight.quant_state.bitsandbytes__{kind}"] = torch.from_numpy(raw)
    decoded = BITSANDBYTES[f"{key}.decoded"].reshape(shape)
    return Packed(tensors, "net.weight", f"{kind}{'_double' * double}/64", decoded)


NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334),
    *(-0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
FP4 = tuple(sign * value / 12 for sign in (1, -1) for value in (0, 0.0625, 8, 12, 4, 6, 2, 3))


def float8(scales=(), height=1, width=1, name="weight_scale", dtype=torch.float8_e4m3fn, config=None) -> Packed:
    """FP8 with scales of a shape, each for so many rows and columns."""
    rng = np.random.default_rng(4)
    codes = torch.from_numpy(rng.standard_normal((200, 300)).astype(np.float32) * 9).to(dtype)
    scale = torch.from_numpy(rng.uniform(0.001, 0.1, scales).astype(np.float32))
    table = scale.numpy().reshape(-1, 1) if scale.ndim < 2 else scale.numpy()
    each = table[np.ix_(np.arange(200) // height if len(table) > 1 else [0], np.arange(300) // width)]
    short = "fp8_e4m3" if dtype == torch.float8_e4m3fn else "fp8_e5m2"
    length = "tensor" if scale.numel() == 1 else "channel" if width >= 300 else width
    tensors = {"net.weight": codes, f"net.{name}": scale}
    return Packed(tensors, "net.weight", f"{short}/{length}", each * codes.float().numpy(), config)


def int8_scales(shape=(200, 300), scales=(200, 1)) -> Packed:
    """As small projects write int8 by hand: of any shape, and scales that broadcast to it."""
    g = torch.Generator().manual_seed(3)
    codes = torch.randint(-127, 128, shape, generator=g, dtype=torch.int8)
    scale = torch.rand(scales, generator=g) + 0.1
    kind = "tensor" if scale.numel() == 1 else "channel"
    tensors = {"net.weight.qweight": codes, "net.weight.scale": scale}
    return Packed(tensors, "net.weight.qweight", f"int8/{kind}", (codes * scale).numpy(), {})


SAMPLES = {
    "int8 with scales": int8_scales,
    "int8 with one scale": lambda: int8_scales(scales=()),
    **{f"gptq {bits} bits": lambda bits=bits: gptq(bits) for bits in (2, 3, 4, 8)},
    **{f"gptq {bits} bits act-order": lambda bits=bits: gptq(bits, act_order=True) for bits in (3, 4)},
    "gptq without index": lambda: gptq(index=False),
    "gptq v2": lambda: gptq(version=2),
    "gptq per channel": lambda: replace_kind(gptq(group=96), "int4_asym/channel"),
    "awq": awq,
    **{f"packed int{bits}": lambda bits=bits: compressed(bits) for bits in (2, 3, 4, 8)},
    **{f"packed int{bits} asymmetric": lambda bits=bits: compressed(bits, asymmetric=True) for bits in (2, 3, 4, 8)},
    "packed int3 in words": lambda: compressed(3, asymmetric=True, dense=False),
    "packed act-order": lambda: compressed(asymmetric=True, act_order=True),
    "packed per channel, padded": lambda: compressed(columns=93, channel=True, dtype=torch.float16),
    "whole int8": whole_integers,
    "whole int8 asymmetric": lambda: whole_integers(asymmetric=True),
    "whole int8 per tensor": lambda: whole_integers(asymmetric=True, one=True),
    **{f"golden {name}": lambda name=name: golden_floats(name) for name in ("nvfp4", "mxfp4")},
    **{
        f"golden {name}": lambda name=name: golden_integers(name)
        for name in ("int2", "int3", "int4", "int2_asym", "int3_asym", "int4_asym")
    },
    **{
        f"bitsandbytes {kind}{' double' * double}{' odd' * odd}": lambda kind=kind, double=double, odd=odd: (
            bitsandbytes(kind, double, odd)
        )
        for kind in ("nf4", "fp4")
        for double in (False, True)
        for odd in (False, True)
    },
    "fp8 per tensor": lambda: float8(width=300),
    "fp8 per channel": lambda: float8((200, 1), width=300),
    "fp8 e5m2": lambda: float8((200,), width=300, dtype=torch.float8_e5m2),
    "fp8 in blocks": lambda: float8((2, 3), 128, 128, "weight_scale_inv"),
    "fp8 in blocks told": lambda: float8((4, 4), 60, 90, "weight_scale_inv", config={"weight_block_size": [60, 90]}),
}
"""A weight in each layout, by name."""


def replace_kind(packed: Packed, kind: str) -> Packed:
    return Packed(packed.tensors, packed.name, kind, packed.weight, packed.config)
