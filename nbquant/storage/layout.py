"""Layout of a .nbq file, as defined by FORMAT.md: all sections with their offsets and sizes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

from nbquant.coding import codes, positions
from nbquant.coding.code import Code
from nbquant.coding.huffman import HUFFMAN
from nbquant.coding.ledger import Ledger
from nbquant.coding.levels import block_shapes
from nbquant.quantization.blocks import formats
from nbquant.storage.dtypes import entry_bytes
from nbquant.storage.parts import StoredPart

DEFAULT_CODING = HUFFMAN.stored  # of files without this key
MAGIC = b"\x89nbq\r\n\x1a\n"
MINOR, MINOR_WITH_METADATA = 0, 1
MAJOR_WITH_FORMATS = 3
PREFIX = 16  # bytes: magic, major, minor, length of the header
CHECKSUM = 4  # bytes after the header and after each section
DIGEST = 16  # bytes at the end
MOST_HEADER = 1 << 22  # bytes; enough for 10¹² weights, and parsed in a few hundred megabytes at the worst


@dataclass(frozen=True)
class StoredLattice:
    """Header entry of a lattice codebook: the step, and one bit for each integer of a range.

    Attributes:
        first: First integer.
        span: Number of integers from the first to the last.
        dependent: Whether a tensor's integers are on paths through the trellis.
    """

    first: int
    span: int
    dependent: bool

    @property
    def bits(self) -> int:
        """Bits of the step and of the mask of integers in use."""
        return 64 + self.span


@dataclass(frozen=True)
class StoredCodebook:
    """Header entry of a codebook with its code table.

    Attributes:
        name: Group whose weights share it.
        dtype: Type of its values.
        levels: Number of values k.
        bits: Length of the code table [bit]; None for codes without one: fixed-length or adaptive.
        lattice: Lattice stored in place of the values; None if the values are stored.
        format: Block format whose levels the values are: a bit for each of them is stored; None if the values are.
    """

    name: str
    dtype: str
    levels: int
    bits: int | None
    lattice: StoredLattice | None = None
    format: str | None = None

    @property
    def values_bits(self) -> int:
        """Bits of the stored values, lattice or levels in use."""
        if self.format is not None:
            return len(formats.named(self.format).levels)
        return self.lattice.bits if self.lattice else 8 * self.levels * entry_bytes(self.dtype)

    @property
    def values_size(self) -> int:
        """Bytes of the stored values or lattice."""
        return in_bytes(self.values_bits)

    @property
    def size(self) -> int:
        """Bytes of values and code table."""
        return self.values_size + in_bytes(self.bits or 0)

    def code(self, coding: str) -> Code:
        """Find the code of its indices, for the name of codes in the file."""
        return next(code for code in codes.stored_as(coding) if code.has_table == (self.bits is not None))


@dataclass(frozen=True)
class StoredTable:
    """Header entry of a code table for gaps.

    Attributes:
        span: Number of zeros of a filler.
        bits: Length of the table [bit].
    """

    span: int
    bits: int


@dataclass(frozen=True)
class StoredBlock:
    """Header entry of a block.

    Attributes:
        entries: Number of entries.
        weights: Number of weights; the other entries are pruned.
        payload: Bits of the indices.
        positions: Bits of the gaps.
        fillers: Number of fillers among the gaps.
    """

    entries: int
    weights: int
    payload: int
    positions: int = 0
    fillers: int = 0

    @property
    def size(self) -> int:
        """Bytes of both streams."""
        return in_bytes(self.positions) + in_bytes(self.payload)


@dataclass(frozen=True)
class QuantizedEntry:
    """Header entry of a quantized tensor.

    Attributes:
        name: Its name.
        shape: Its shape.
        dtype: Type of its entries.
        codebook: Index of its codebook.
        table: Index of the table of its gaps; None if it has none.
        blocks: Its blocks.
        parts: Scales of a block format.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    codebook: int
    table: int | None
    blocks: tuple[StoredBlock, ...]
    parts: tuple[StoredPart, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of its section."""
        return sum(block.size for block in self.blocks) + sum(part.size for part in self.parts)


@dataclass(frozen=True)
class RawEntry:
    """Header entry of an unquantized tensor; its section holds its bytes."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Bytes of its section."""
        return prod(self.shape) * entry_bytes(self.dtype)


@dataclass(frozen=True)
class Section:
    """A part of the file followed by a checksum.

    Attributes:
        label: Name in error messages.
        offset: First byte.
        size: Number of bytes, without the checksum.
    """

    label: str
    offset: int
    size: int

    @property
    def end(self) -> int:
        """First byte after the checksum."""
        return self.offset + self.size + CHECKSUM


@dataclass(frozen=True)
class Layout:
    """The complete content of a header.

    Attributes:
        codebooks: The codebooks; their sections come first.
        tables: The tables of gaps; next.
        quantized: The quantized tensors; next.
        raw: The unquantized tensors; last.
        tied: Further names of tensors, each with the name of its tensor.
        pruned: Whether zeros are left out.
        coding: Name of the code of the indices; see :attr:`nbquant.coding.code.Code.stored`.
        recipe: Record of the quantization.
        metadata: Metadata of the original checkpoint.
        header_size: Bytes of the header.
    """

    codebooks: tuple[StoredCodebook, ...]
    tables: tuple[StoredTable, ...]
    quantized: tuple[QuantizedEntry, ...]
    raw: tuple[RawEntry, ...]
    tied: Mapping[str, str]
    pruned: bool
    coding: str = DEFAULT_CODING
    recipe: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    header_size: int = 0

    @property
    def major(self) -> int:
        """Major version: the one that includes its codes, and block formats."""
        if any(book.format is not None for book in self.codebooks):
            return MAJOR_WITH_FORMATS
        return codes.stored_as(self.coding)[0].major

    @property
    def adaptive(self) -> bool:
        """Whether indices are coded adaptively."""
        return codes.stored_as(self.coding)[0].adaptive

    @cached_property
    def entries(self) -> dict[str, QuantizedEntry | RawEntry]:
        """Stored tensors by their own names, in the file's order."""
        stored: tuple[QuantizedEntry | RawEntry, ...] = (*self.quantized, *self.raw)
        return {entry.name: entry for entry in stored}

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """All sections in the file's order."""
        return tuple(self._sections())

    def section(self, entry: QuantizedEntry | RawEntry) -> Section:
        """Find the section of a tensor."""
        return self.sections[len(self.codebooks) + len(self.tables) + self._place[entry.name]]

    @property
    def minor(self) -> int:
        """Minor version: the lowest with all keys of the header."""
        return MINOR_WITH_METADATA if self.metadata else MINOR

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return (self.sections[-1].end if self.sections else PREFIX + self.header_size + CHECKSUM) + DIGEST

    @property
    def restored(self) -> int:
        """Bytes of all tensors, tied ones once."""
        return sum(prod(entry.shape) * entry_bytes(entry.dtype) for entry in self.entries.values())

    @property
    def quantized_ledger(self) -> Ledger:
        """Ledger of the quantized tensors, equal to :attr:`nbquant.quantization.quantized.Quantized.ledger`."""
        blocks = [block for entry in self.quantized for block in entry.blocks]
        parts = {
            "payload": sum(block.payload for block in blocks),
            "code_table": sum(book.bits or 0 for book in self.codebooks),
            "codebook": sum(book.values_bits for book in self.codebooks),
        }
        if self.pruned:
            parts["position_payload"] = sum(block.positions for block in blocks)
            parts["position_table"] = sum(table.bits for table in self.tables)
        for entry in self.quantized:
            for part in entry.parts:
                parts[part.name] = parts.get(part.name, 0) + part.total
        return Ledger(parts)

    @property
    def ledger(self) -> Ledger:
        """Ledger of the whole file, by part."""
        quantized = self.quantized_ledger
        whole = 8 * sum(section.size for section in self.sections)
        raw = 8 * sum(entry.size for entry in self.raw)
        return quantized + Ledger(
            unquantized=raw,
            header=8 * self.header_size,
            container=8 * (PREFIX + CHECKSUM * (1 + len(self.sections)) + DIGEST),
            padding=whole - raw - quantized.total,
        )

    @cached_property
    def _place(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.entries)}

    def _sections(self) -> Iterator[Section]:
        named = [(f"codebook {book.name!r}", book.size) for book in self.codebooks]
        named += [(f"position table {i}", in_bytes(table.bits)) for i, table in enumerate(self.tables)]
        named += [(f"tensor {entry.name!r}", entry.size) for entry in self.entries.values()]
        at = PREFIX + self.header_size + CHECKSUM
        for label, size in named:
            section = Section(label, at, size)
            at = section.end
            yield section


def in_bytes(bits: int) -> int:
    """Round bits up to bytes."""
    return -(-bits // 8)


def block_entries(shape: Sequence[int], adaptive: bool) -> list[int]:
    """Count the entries of each block of a tensor; blocks of adaptive codes have whole rows."""
    if adaptive:
        return [rows * cols for rows, cols in block_shapes(shape)]
    entries = prod(shape)
    return [min(positions.BLOCK_ENTRIES, entries - begin) for begin in range(0, entries, positions.BLOCK_ENTRIES)]
