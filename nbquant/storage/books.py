"""Codebooks and codes as files store them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from nbquant.coding.code import SymbolCode
from nbquant.coding.code_table import decode_lengths
from nbquant.coding.huffman import HuffmanCode
from nbquant.coding.positions import GapCode
from nbquant.quantization.blocks import formats
from nbquant.quantization.blocks.scaling import ordered_codes
from nbquant.quantization.codebook import BlockLevels, Lattice
from nbquant.storage.blocks import read_lattice
from nbquant.storage.dtypes import DTYPES, of_bytes
from nbquant.storage.layout import Layout, in_bytes
from nbquant.storage.sections import damage_of, reading


@dataclass(frozen=True, eq=False)
class Book:
    """A codebook, its code (None if its indices take no bits), and its lattice or block format."""

    value: Tensor
    code: SymbolCode | None
    lattice: Lattice | None
    levels: BlockLevels | None = None

    def bits_of(self, dtype: torch.dtype) -> Shaped[np.ndarray, " k"]:
        """Convert the values to a tensor's own type, as integers of the same bits."""
        return self.value.to(dtype).view(getattr(torch, f"int{8 * dtype.itemsize}")).numpy()

    def lengths(self) -> Tensor:
        """Codeword lengths [bit]."""
        levels = len(self.value)
        lengths = getattr(self.code, "lengths", np.zeros(levels, np.int64))  # without a code, no bits
        return torch.from_numpy(lengths[:levels].copy())


def read_book(path: Path, layout: Layout, index: int) -> Book:
    """Read a codebook with its code.

    Raises:
        CorruptFileError: It is damaged.
    """
    stored, section = layout.codebooks[index], layout.sections[index]
    with reading(path, section) as reader:
        data = reader.take(stored.values_size)
        table = reader.take(section.size - stored.values_size)
        reader.end()
    lattice: Lattice | None = None
    code: SymbolCode | None = None
    levels: BlockLevels | None = None
    with damage_of(section.label):
        if stored.lattice:
            lattice = read_lattice(data, stored.lattice, stored.levels)
            values = (lattice.integer.double() * lattice.step).to(DTYPES[stored.dtype])
        elif stored.format is not None:
            levels = _read_levels(data, stored.format, stored.levels)
            values = torch.from_numpy(formats.named(stored.format).levels[levels.codes])
        else:
            values = of_bytes(data, stored.dtype)
        if not values.isfinite().all():
            raise ValueError("its values must be finite, but are not: write the file again.")
        kind = stored.code(layout.coding)
        if kind.read is not None:
            code = kind.read(table, stored.bits or 0, stored.levels)
        elif levels is None and (values.diff() <= 0).any():
            raise ValueError("its values must ascend, but do not: write the file again.")
    return Book(values, code, lattice, levels)


def _read_levels(data: bytes, name: str, count: int) -> BlockLevels:
    """Read which codes of a block format are in use.

    Raises:
        ValueError: Another number of them, or padding other than zeros.
    """
    form = formats.named(name)
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    used = np.flatnonzero(bits)
    if len(used) != count or bits[len(form.levels) :].any():
        raise ValueError(f"{count} of the {len(form.levels)} levels of {name} must be in use, but {len(used)} are.")
    return BlockLevels(form.name, ordered_codes(form, used.astype(np.uint8)))


def read_gap_code(path: Path, layout: Layout, index: int | None) -> GapCode | None:
    """Read the code of the gaps between weights; None for no index.

    Raises:
        CorruptFileError: It is damaged.
    """
    if index is None:
        return None
    section, table = layout.sections[len(layout.codebooks) + index], layout.tables[index]
    with reading(path, section) as reader:
        data = reader.take(in_bytes(table.bits))
        reader.end()
    with damage_of(section.label):
        return GapCode(HuffmanCode.from_lengths(decode_lengths(data, table.span + 1, table.bits)))
