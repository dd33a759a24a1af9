"""Kernels of codes 0, 1, 2 packed five to a byte, as fractions of 256 that are read by repeated multiplication by 3."""

import numpy as np

from nbquant.kernels.compiled import compiled

Array = np.ndarray

PER_BYTE = 5


@compiled()
def gather_trits(codes: Array, first: int, stride: int, count: int, out: Array, offset: int) -> None:
    """Pack codes into the bytes of their block.

    Byte i holds the codes i, i + stride, …, the first as its most significant digit.

    Args:
        codes: Codes, blocks × length.
        first: First code that is packed.
        stride: Number of bytes.
        count: Codes of a byte, at most five.
        out: Bytes of the blocks, blocks × size; these are overwritten.
        offset: First byte within a block.
    """
    for b in range(codes.shape[0]):
        row, to = codes[b], out[b]
        for i in range(stride):
            number = 0
            for k in range(PER_BYTE):
                number = 3 * number + (int(row[first + k * stride + i]) if k < count else 0)
            to[offset + i] = np.uint8((number * 256 + 242) // 243)


@compiled()
def scatter_trits(data: Array, offset: int, stride: int, count: int, codes: Array, first: int) -> None:
    """Unpack codes from the bytes of their block; the inverse of :func:`gather_trits`."""
    for b in range(codes.shape[0]):
        packed = data[b, offset : offset + stride]
        power = 1
        for k in range(count):
            start = first + k * stride
            part = codes[b, start : start + stride]
            for i in range(len(part)):
                digit = np.int32(packed[i]) * np.int32(power) & np.int32(255)
                part[i] = np.uint8(digit * np.int32(3) >> 8)
            power *= 3
