"""Scales of block formats as files store them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from nbquant.quantization.blocks import formats
from nbquant.quantization.blocks.block_codes import Part
from nbquant.quantization.blocks.scaling import Scaling, part_shapes


@dataclass(frozen=True)
class StoredPart:
    """A part of a tensor in a block format.

    Attributes:
        name: "scale", "sub_scale", …
        dtype: Type of its values in memory.
        shape: Shape of its values.
        bits: Stored bits of each value.
    """

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    bits: int

    @property
    def total(self) -> int:
        """Stored bits of all values."""
        return prod(self.shape) * self.bits

    @property
    def size(self) -> int:
        """Bytes that they fill."""
        return -(-self.total // 8)


def parts_of(format: str, shape: Sequence[int]) -> tuple[StoredPart, ...]:
    """List the parts of a tensor of some shape in a format, in the order of the file."""
    if not prod(shape):
        return ()
    form = formats.named(format)
    bits = dict(form.part_bits)
    return tuple(StoredPart(n, dtype, of, int(bits[n])) for n, (dtype, of) in part_shapes(form, shape).items())


def encode_part(part: Part) -> bytes:
    """Write the lowest bits of each value: whole bytes little-endian, others packed, highest bit first."""
    values = np.ascontiguousarray(part.values).reshape(-1)
    bits = int(part.bits)
    if bits == 8 * values.dtype.itemsize:
        return values.astype(values.dtype.newbyteorder("<")).tobytes()
    places = np.arange(bits - 1, -1, -1, dtype=np.uint8)
    return np.packbits((values.view(np.uint8)[:, None] >> places) & 1).tobytes()


def decode_part(data: bytes, stored: StoredPart) -> Part:
    """Read what :func:`encode_part` writes.

    Raises:
        ValueError: Padding other than zeros, or values that are not finite.
    """
    if stored.bits == 8 * stored.dtype.itemsize:
        values = np.frombuffer(data, stored.dtype.newbyteorder("<")).astype(stored.dtype)
        if stored.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError(f"its {stored.name} must be finite, but is not: write the file again.")
        return Part(stored.name, values.reshape(stored.shape), stored.bits)
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    if bits[stored.total :].any():
        raise ValueError(f"the padding of its {stored.name} must be zeros, but is not: write the file again.")
    places = np.arange(stored.bits - 1, -1, -1, dtype=np.uint8)
    values = (bits[: stored.total].reshape(-1, stored.bits) << places).sum(1, dtype=np.uint8)
    if stored.dtype.kind == "i":  # in two's complement
        free = 8 - stored.bits
        values = (values << free).view(np.int8) >> free
    return Part(stored.name, values.astype(stored.dtype).reshape(stored.shape), stored.bits)


def require_parts(name: str, scaling: Scaling, shape: Sequence[int]) -> None:
    """Refuse scales that are not those of the tensor's format and shape.

    Raises:
        ValueError: Other parts, types or shapes.
    """
    wanted = [(part.name, part.dtype, part.shape) for part in parts_of(scaling.format, shape)]
    given = [(part.name, part.values.dtype, part.values.shape) for part in scaling.parts]
    bad = sum(int((~np.isfinite(part.values)).sum()) for part in scaling.parts if part.values.dtype.kind == "f")
    if bad:
        raise ValueError(
            f"finite scales are required, but {bad} of {name!r} in {scaling.format} are not: scale it down."
        )
    if wanted != given:
        raise ValueError(
            f"{name!r} in {scaling.format} must have the scales {wanted}, but has {given}: quantize again."
        )
