"""The code table: codeword lengths as a bit stream, from which the decoder rebuilds the canonical code.

Neighbouring codewords have similar lengths: for weights they fall towards the middle of the codebook and rise after
it. So a length is written as its rank among the likely ones, see :mod:`nbquant.kernels.cpu.code_table`: rank r is r
zeros and a one. The table starts with the first non-zero length in Elias gamma code: one zero fewer than it has
binary digits, then the digits. No lengths take no bits.

The paper charges Σ ℓ_j, the lengths of the codewords themselves; this takes a fifth of that on the bundled networks.

Source: Choi et al. 2017 (arXiv:1612.01543), section 2; Elias 1975 for the gamma code.
"""

import numpy as np
from jaxtyping import Int64

from nbquant.coding.entropy import Counts, as_integers
from nbquant.kernels.cpu import code_table as kernels


def table_bits(lengths: Counts) -> int:
    """Count the bits of the table for these codeword lengths.

    Args:
        lengths: Codeword lengths ℓ_j [bit]; 0 for a symbol without a codeword.

    Raises:
        ValueError: Lengths outside 0 to 32, or all of them 0.
        TypeError: Lengths that are not integers.
    """
    array, first = _checked(lengths)
    if not first:
        return 0
    return 2 * first.bit_length() - 1 + int(kernels.ranks(array, first).sum()) + len(array)


def encode_lengths(lengths: Counts) -> bytes:
    """Write the table in whole bytes, highest bit first, padded with zeros.

    Raises:
        ValueError, TypeError: As :func:`table_bits`.
    """
    array, first = _checked(lengths)
    if not first:
        return b""
    ends = np.cumsum(kernels.ranks(array, first) + 1)
    digits = [int(digit) for digit in f"{first:b}"]
    start = 2 * len(digits) - 1
    bits = np.zeros(start + ends[-1], np.uint8)
    bits[len(digits) - 1 : start] = digits
    bits[start - 1 + ends] = 1
    return np.packbits(bits).tobytes()


def decode_lengths(data: bytes, count: int, bits: int) -> Int64[np.ndarray, " count"]:
    """Read codeword lengths. Whether they form a code is not checked here.

    Args:
        data: The whole stream and nothing else.
        count: Number of lengths.
        bits: Length of the stream without its padding [bit].

    Raises:
        ValueError: The stream is of another length, is damaged or is not padded with zeros.
    """
    if len(data) != -(-bits // 8) or not 0 <= count <= bits:
        raise ValueError(f"{count} code lengths in {bits} bits are required, but got {len(data)} bytes.")
    if not count:
        if bits:
            raise ValueError(f"no code lengths take no bits, but got {bits}.")
        return np.zeros(0, np.int64)
    unpacked = np.unpackbits(np.frombuffer(data, np.uint8))
    if unpacked[bits:].any():
        raise ValueError(f"the {len(unpacked) - bits} bits after the last code length must be zero, but are not.")
    head = unpacked[: kernels.LONGEST.bit_length()]
    digits = int(head.argmax()) + 1
    first = int("".join(map(str, unpacked[digits - 1 : 2 * digits - 1])), 2)
    lengths = np.empty(count, np.int64)
    end = -1
    if head.any() and first <= kernels.LONGEST:
        end = kernels.read_ranks(unpacked[:bits], 2 * digits - 1, first, lengths)
    if end != bits:
        raise ValueError(
            f"{count} code lengths of 0 to {kernels.LONGEST} bits in {bits} bits are required, but "
            + ("the stream is damaged." if end < 0 else f"they end at bit {end}.")
        )
    used = lengths[lengths > 0]
    if not used.size or used[0] != first:
        raise ValueError(f"the first code length must be {first} bits, the first entry of the table, but is not.")
    return lengths


def _checked(lengths: Counts) -> tuple[Int64[np.ndarray, " k"], int]:
    """The lengths, and the first non-zero one; 0 if there are no lengths."""
    array = as_integers(lengths, "codeword lengths").astype(np.int64)
    if not array.size:
        return array, 0
    if array.min() < 0 or array.max() > kernels.LONGEST or not array.any():
        raise ValueError(
            f"codeword lengths must be 0 to {kernels.LONGEST} bits and not all 0, but go from {array.min()} "
            f"to {array.max()}."
        )
    return array, int(array[(array > 0).argmax()])
