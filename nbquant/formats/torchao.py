"""torchao's flattened layout: codes and scales of its tensor classes, and what it says about each in the metadata.

Integers in a byte each, of 8 bits or fewer, FP8, MXFP8, MXFP4 and NVFP4 are decoded, in float32; Int4Tensor and layouts
for one kind of accelerator are listed only.

Source: torchao 0.18.0.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import UInt8

from nbquant.formats.float8 import FORMATS, row_bytes, scaled
from nbquant.formats.grouped_tensor import Grouped, group_length
from nbquant.formats.packed_checkpoint import PackedCheckpoint, PackedLayout
from nbquant.formats.packed_tensor import PackedTensor
from nbquant.formats.packed_words import unpack_nibbles
from nbquant.quantization.blocks import formats as blocks
from nbquant.quantization.blocks.block_format import TENSOR
from nbquant.quantization.blocks.float_grid import E4M3
from nbquant.quantization.blocks.scales import Scales
from nbquant.tensorfile import FLOATS, parse_json

CODES = re.compile(r"(?P<layer>(?:.*\.)?)_(?P<parameter>[^.]+)_qdata")
PARTS = (
    "scale",
    "zero_point",
    "per_tensor_scale",
    "scale_and_zero",
    "act_pre_scale",
    "act_per_tensor_scale",
    "act_quant_scale",
)
BITS = (2, 3, 4, 8)


def find_torchao(checkpoint: PackedCheckpoint) -> list[str]:
    """List the tensors with codes in this layout."""
    return [name for name in checkpoint.files if CODES.fullmatch(name)]


def read_torchao(checkpoint: PackedCheckpoint, name: str) -> tuple[PackedTensor, tuple[str, ...]]:
    """Read the record of a weight.

    Raises:
        ValueError: A missing part, or one that does not fit.
    """
    found = CODES.fullmatch(name)
    assert found is not None
    weight, prefix = f"{found['layer']}{found['parameter']}", name.removesuffix("qdata")
    used = (name, *(part for p in PARTS if (part := f"{prefix}{p}") in checkpoint))
    stored, scales_name = checkpoint.bits(used), f"{prefix}scale"
    kind = checkpoint.stored(name).dtype
    scales = checkpoint.stored(scales_name).dtype if scales_name in checkpoint else ""
    about = _about(checkpoint, name, weight)
    others = (weight,)
    if about.get("is_swizzled_scales") is True or len(checkpoint.stored(name).shape) != 2 or not scales:
        grouped = None
    elif kind == "I8" and scales in FLOATS and f"{prefix}scale_and_zero" not in checkpoint:
        grouped = _integers(checkpoint, name, prefix, about)
    elif kind in FORMATS and scales in FLOATS:
        codes = checkpoint.require(name, FORMATS)
        grouped = scaled(checkpoint, name, codes, FORMATS[kind], scales_name, checkpoint.floats(scales_name))
    elif kind in ("F8_E4M3", "U8") and scales in ("F8_E8M0", "F8_E4M3"):
        grouped = _floats(checkpoint, name, prefix, scales)
    else:
        grouped = None
    if grouped is None:
        shape = checkpoint.stored(name).shape
        return PackedTensor(name, shape, f"torchao {kind}", None, stored, None, None, others), used
    return grouped.tensor(name, stored, others), used


def _about(checkpoint: PackedCheckpoint, name: str, weight: str) -> Mapping[str, Any]:
    """What the metadata say about a weight."""
    file = checkpoint.files[name]
    raw = file.metadata.get(weight)
    data = parse_json(raw.encode(), f"the metadata of {weight!r} in {str(file.path)!r}").get("_data") if raw else None
    return data if isinstance(data, dict) else {}


def _integers(checkpoint: PackedCheckpoint, name: str, prefix: str, about: Mapping[str, Any]) -> Grouped:
    codes = checkpoint.require(name, ("I8",))
    rows, columns = codes.shape
    scales_name, zeros_name = f"{prefix}scale", f"{prefix}zero_point"
    scale = checkpoint.floats(scales_name)
    table = scale.reshape(1, 1) if scale.size == 1 else scale.reshape(-1, 1) if scale.ndim == 1 else scale
    if len(table) not in (1, rows) or (len(table) == 1 and table.shape[1] > 1 and rows > 1):
        raise checkpoint.damaged(scales_name, f"must have scales for {rows} rows, but has the shape {scale.shape}")
    zero = None
    if zeros_name in checkpoint:
        zero = checkpoint.require(zeros_name, ("I8",), (0, 1, 2))
        if zero.size != scale.size:
            raise checkpoint.damaged(
                zeros_name, f"must have {scale.size} zero points for as many scales, but has {zero.size}"
            )
        zero = zero.reshape(table.shape) if zero.any() else None
    bits = _bits(about)
    form = replace(blocks.named(f"int{bits}{'' if zero is None else '_asym'}"), code_bits=8)
    whole = len(table) == 1 and rows > 1
    length = TENSOR if whole else group_length(checkpoint, scales_name, columns, table.shape[1])
    damaged = partial(checkpoint.damaged, name)

    def few(first: int, last: int) -> UInt8[np.ndarray, "rows columns"]:
        """Codes of our formats, which start at the least integer where they have less than 8 bits."""
        found = row_bytes(codes, first, last)
        if bits == 8:
            return found
        found += np.uint8(1 << bits - 1)
        if found.max() >> bits:
            raise damaged(f"must hold integers of {bits} bits, but has others in rows {first} to {last - 1}")
        return found

    def parts(first: int, last: int) -> dict[str, np.ndarray]:
        of = slice(0, 1) if whole else slice(first, last)
        own = {"scale": table[of].reshape(-1)}
        return own if zero is None else own | {"zero_point": np.array(zero[of]).reshape(-1)}

    return Grouped(form.with_length(length), (rows, columns), few, parts)


def _bits(about: Mapping[str, Any]) -> int:
    """Bits of an integer, by the type in the metadata."""
    target = about.get("target_dtype")
    name = target.get("_data") if isinstance(target, dict) else None
    return next((bits for bits in BITS if name == f"int{bits}"), 8)


def _floats(checkpoint: PackedCheckpoint, name: str, prefix: str, scales: str) -> Grouped:
    """MXFP8 and MXFP4, whose scales are powers of two, or NVFP4."""
    wide = checkpoint.is_stored(name, ("F8_E4M3",))
    codes = checkpoint.require(name, ("F8_E4M3",) if wide else ("U8",))
    form = blocks.named("nvfp4" if scales == "F8_E4M3" else "mxfp8" if wide else "mxfp4")
    rows, columns = codes.shape[0], codes.shape[1] * (1 if wide else 2)
    scales_name, whole_name = f"{prefix}scale", f"{prefix}per_tensor_scale"
    table = checkpoint.require(scales_name, (scales,))
    if table.shape != (rows, -(-columns // form.length)) or (wide and scales == "F8_E4M3"):
        raise checkpoint.damaged(
            scales_name,
            f"must have a scale for each {form.length} of {rows} × {columns} weights, but has shape {table.shape}",
        )
    whole = {}
    if form.name == "nvfp4":
        value = checkpoint.floats(whole_name) if whole_name in checkpoint else np.ones(1, np.float32)
        if value.size != 1:
            raise checkpoint.damaged(whole_name, f"must be one number, but has the shape {value.shape}")
        whole["global_scale"] = value.reshape(1)
        form = replace(form, scales=_multiplied)

    def few(first: int, last: int) -> UInt8[np.ndarray, "rows columns"]:
        return row_bytes(codes, first, last) if wide else unpack_nibbles(codes[first:last])

    def parts(first: int, last: int) -> dict[str, np.ndarray]:
        return {"scale": np.array(table[first:last]).reshape(-1), **whole}

    return Grouped(form, (rows, columns), few, parts)


def _multiplied(parts: Mapping[str, np.ndarray]) -> Scales:
    """Multiply scales of NVFP4 by that of the tensor, by which the published format divides."""
    return Scales(E4M3.levels[parts["scale"].reshape(-1)] * np.float32(parts["global_scale"].reshape(-1)[0]))


TORCHAO = PackedLayout("torchao", find_torchao, read_torchao)
