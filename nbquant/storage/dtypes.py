"""Data types of stored tensors, in safetensors' spelling."""

import torch
from torch import Tensor

_NAMES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "C64": "complex64",
}  # fmt: skip

DTYPES = {name: getattr(torch, torch_name) for name, torch_name in _NAMES.items()}
"""Types that can be stored unchanged; types below one byte cannot."""

SPELLED = {dtype: name for name, dtype in DTYPES.items()}

QUANTIZED = ("F16", "BF16", "F32", "F64")
"""Types of codebooks and quantized tensors."""


def entry_bytes(dtype: str) -> int:
    """Compute the size of an entry [byte]."""
    return DTYPES[dtype].itemsize


def as_bytes(flat: Tensor) -> memoryview:
    """View a flat CPU tensor as bytes, copied only if it is not contiguous."""
    if not flat.numel():
        return memoryview(b"")  # strides without entries may be anything
    flat = flat.detach().resolve_conj().resolve_neg().contiguous()
    if flat.is_complex():
        flat = torch.view_as_real(flat)
    return flat.view(torch.uint8).reshape(-1).numpy().data


def of_bytes(data: bytes | bytearray, dtype: str) -> Tensor:
    """Make a flat tensor of bytes, which it takes over."""
    if not data:
        return torch.empty(0, dtype=DTYPES[dtype])
    return torch.frombuffer(bytearray(data) if isinstance(data, bytes) else data, dtype=DTYPES[dtype])
