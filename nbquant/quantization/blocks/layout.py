"""Byte layouts of blocks: where the codes' bits and the scales are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from nbquant.kernels.cpu import block_codes as kernels

Bytes = UInt8[np.ndarray, "blocks size"]


@dataclass(frozen=True)
class Plane:
    """Some bits of all codes of a block.

    Attributes:
        offset: First byte within a block.
        bits: Bits of each code; negative where the first code takes the highest bits of a byte.
        stride: Byte i of a run of ``stride`` bytes holds codes i, i + stride, i + 2 stride, …
        shift: Lowest of these bits within a code.
    """

    offset: int
    bits: int
    stride: int
    shift: int = 0


@dataclass(frozen=True)
class Field:
    """A part of a block stored in bytes of its own.

    Attributes:
        part: Name of the part.
        offset: First byte within a block.
        dtype: Type of its numbers.
        count: Numbers of a block.
    """

    part: str
    offset: int
    dtype: str
    count: int = 1


@dataclass(frozen=True)
class Packed:
    """Parts of a block whose bits are interleaved.

    Attributes:
        parts: Names of the parts.
        offset: First byte within a block.
        size: Bytes.
        pack: pack(*parts) returns their bytes, blocks × size.
        unpack: unpack(bytes) returns the parts.
    """

    parts: tuple[str, ...]
    offset: int
    size: int
    pack: Callable[..., Bytes]
    unpack: Callable[[Bytes], tuple[np.ndarray, ...]]


@dataclass(frozen=True)
class Layout:
    """Bytes of a block.

    Attributes:
        size: Bytes of a block.
        planes: The codes: planes from the lowest bits up; or their own functions.
        fields: The parts.
        pack_codes: pack_codes(codes, out) writes codes that are not in planes.
        unpack_codes: unpack_codes(bytes, codes) reads them.
    """

    size: int
    planes: tuple[Plane, ...]
    fields: tuple[Field | Packed, ...] = ()
    pack_codes: Callable[[np.ndarray, Bytes], None] | None = None
    unpack_codes: Callable[[Bytes, np.ndarray], None] | None = None

    def pack(
        self, codes: UInt8[np.ndarray, "blocks length"], parts: Mapping[str, np.ndarray], out: Bytes | None = None
    ) -> Bytes:
        """Pack codes and parts of blocks into bytes, new ones or those given."""
        if out is None:
            out = np.empty((len(codes), self.size), np.uint8)
        for plane in self.planes:
            kernels.gather_bits(codes, plane.shift, plane.bits, plane.stride, out, plane.offset)
        if self.pack_codes is not None:
            self.pack_codes(codes, out)
        for field in self.fields:
            if isinstance(field, Packed):
                out[:, field.offset : field.offset + field.size] = field.pack(*(parts[name] for name in field.parts))
            else:
                values = np.ascontiguousarray(parts[field.part].astype(field.dtype, copy=False))
                data = values.reshape(len(codes), field.count).view(np.uint8)
                out[:, field.offset : field.offset + data.shape[1]] = data
        return out

    def unpack(self, data: Bytes, length: int) -> tuple[UInt8[np.ndarray, "blocks length"], dict[str, np.ndarray]]:
        """Unpack the bytes of blocks into codes and parts."""
        codes = np.empty((len(data), length), np.uint8)
        for plane in self.planes:
            kernels.scatter_bits(data, plane.offset, plane.shift, plane.bits, plane.stride, codes)
        if self.unpack_codes is not None:
            self.unpack_codes(data, codes)
        parts: dict[str, np.ndarray] = {}
        for field in self.fields:
            if isinstance(field, Packed):
                found = field.unpack(data[:, field.offset : field.offset + field.size])
                parts |= dict(zip(field.parts, found, strict=True))
            else:
                width = field.count * np.dtype(field.dtype).itemsize
                raw = np.ascontiguousarray(data[:, field.offset : field.offset + width])
                values = raw.view(field.dtype)
                parts[field.part] = values[:, 0] if field.count == 1 else values
        return codes, parts
