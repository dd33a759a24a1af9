"""Trace of one weight: its bits, index, codeword, and the bits that hold it in the file."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from nbquant.analysis.breakdown import codeword_strings
from nbquant.coding import codes
from nbquant.quantization.quantized import Quantized
from nbquant.storage.layout import Layout, QuantizedEntry, block_entries, in_bytes
from nbquant.storage.plan import plan
from nbquant.storage.source import unquantized_of

_EXPONENT = {torch.float64: 11, torch.float32: 8, torch.bfloat16: 8, torch.float16: 5}
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Trace:
    """The way of one weight into the file.

    Attributes:
        name: Name of the parameter.
        place: Its index along each axis.
        weight: The weight before.
        bits: Its bits, the sign first.
        exponent: Number of bits of the exponent, after the sign; the others are the mantissa's.
        index: Index of its codeword; None for a pruned weight, which is left out.
        levels: Number of reconstruction values.
        value: Its reconstruction value.
        codeword: Its codeword; "" where weights have none of their own: arithmetic codes, or a pruned weight.
        first_bit: First bit of the codeword in the file; None without one.
        stream: First byte of the block's stream of indices in the file, and the one after its last.
    """

    name: str
    place: tuple[int, ...]
    weight: float
    bits: str
    exponent: int
    index: int | None
    levels: int
    value: float
    codeword: str
    first_bit: int | None
    stream: tuple[int, int]

    @property
    def byte(self) -> int | None:
        """The byte of the file in which its codeword begins; None without one."""
        return None if self.first_bit is None else self.first_bit // 8


def layout_of(quantized: Quantized, model: nn.Module | str | os.PathLike[str] | None = None) -> Layout:
    """Plan the layout of the file that :func:`nbquant.save` writes; arguments and errors as for it."""
    return plan(quantized, unquantized_of(model, quantized))[0]


def trace(quantized: Quantized, weight: Tensor, name: str, index: int, layout: Layout) -> Trace:
    """Trace a weight through quantization and coding to its bits in the file.

    Args:
        quantized: The quantized selection.
        weight: The parameter before.
        name: Its name.
        index: Place of the weight in the flattened parameter.
        layout: Of the file, see :func:`layout_of`.

    Raises:
        ValueError: A parameter that is not quantized, or an index outside it.
    """
    tensor = quantized.tensors.get(name)
    if tensor is None:
        raise ValueError(f"a quantized parameter is required, but {name!r} is not among {', '.join(quantized.tensors)}")
    if not 0 <= index < prod(tensor.shape):
        raise ValueError(f"the index must be from 0 to {prod(tensor.shape) - 1}, but is {index}")
    book = quantized.codebooks[quantized.group_of(name)]
    flat = tensor.assignment.reshape(-1)
    chosen = int(flat[index])
    entry = layout.entries[name]
    assert isinstance(entry, QuantizedEntry)
    begin, stream = _block(layout, entry, index)
    coding = quantized.quantizer.coding
    length = book.codeword_length.cpu().numpy()
    codeword, first = "", None
    if chosen >= 0 and codes.named(coding).known_from_counts:
        codeword = codeword_strings(length, coding)[chosen]
        before = flat[begin:index].cpu().numpy()
        first = 8 * stream[0] + int(np.asarray(length, np.int64)[before[before >= 0]].sum())
    own = weight.detach().reshape(-1)[index]
    value = float(book.value[chosen]) if chosen >= 0 else 0.0
    if tensor.scaling is not None:
        value = float(tensor.dequantize().reshape(-1)[index])
    return Trace(
        name=name,
        place=tuple(int(i) for i in np.unravel_index(index, tuple(tensor.shape))) if tensor.shape else (),
        weight=float(own),
        bits=bits_of(own),
        exponent=_EXPONENT[own.dtype],
        index=chosen if chosen >= 0 else None,
        levels=len(book.value),
        value=value,
        codeword=codeword,
        first_bit=first,
        stream=stream,
    )


def bits_of(number: Tensor) -> str:
    """List the bits of a floating-point number, the sign first."""
    size = number.element_size()
    return format(int(number.cpu().reshape(1).view(_INTEGERS[size])[0]) % (1 << 8 * size), f"0{8 * size}b")


def _block(layout: Layout, entry: QuantizedEntry, index: int) -> tuple[int, tuple[int, int]]:
    """First entry of the block of a weight, and the bytes of its stream of indices in the file."""
    begin, at = 0, layout.section(entry).offset
    sizes: Sequence[int] = block_entries(entry.shape, layout.adaptive)
    for entries, block in zip(sizes, entry.blocks, strict=True):
        if index < begin + entries:
            first = at + in_bytes(block.positions)
            return begin, (first, first + in_bytes(block.payload))
        begin, at = begin + entries, at + block.size
    raise AssertionError(f"{index} is in none of {len(sizes)} blocks")
