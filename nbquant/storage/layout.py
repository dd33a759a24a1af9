"""What is where in a file, as FORMAT.md lays it down: made by the writer, and checked by the reader before use."""

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
from nbquant.storage.dtypes import entry_bytes

DEFAULT_CODING = HUFFMAN.stored  # of files that name none
MAGIC = b"\x89nbq\r\n\x1a\n"
MINOR, MINOR_WITH_METADATA = 0, 1
PREFIX = 16  # bytes: magic, major, minor, length of the header
CHECKSUM = 4  # bytes behind the header and behind each section
DIGEST = 16  # bytes at the end
MOST_HEADER = 1 << 22  # bytes; enough for 10¹² weights, and parsed in a few hundred megabytes at the worst


@dataclass(frozen=True)
class StoredLattice:
    """What is stored of values that are integers times a step: the step, and a bit for each integer of a range.

    Attributes:
        first: First integer.
        span: Number of integers from it to the last.
        dependent: Whether a tensor's integers are on paths through the trellis.
    """

    first: int
    span: int
    dependent: bool

    @property
    def bits(self) -> int:
        """Bits of the step and of those that say which integers are values."""
        return 64 + self.span


@dataclass(frozen=True)
class StoredCodebook:
    """A codebook with its code table.

    Attributes:
        name: Group whose weights share it.
        dtype: Type of its values.
        levels: Number of values k.
        bits: Length of the code table [bit]; None for a code that needs none: of fixed length, or adaptive.
        lattice: What is stored in the place of the values; None if they are stored themselves.
    """

    name: str
    dtype: str
    levels: int
    bits: int | None
    lattice: StoredLattice | None = None

    @property
    def values_bits(self) -> int:
        """Bits of the values, or of what is stored in their place."""
        return self.lattice.bits if self.lattice else 8 * self.levels * entry_bytes(self.dtype)

    @property
    def values_size(self) -> int:
        """The same in bytes."""
        return in_bytes(self.values_bits)

    @property
    def size(self) -> int:
        """Bytes of values and code table."""
        return self.values_size + in_bytes(self.bits or 0)

    def code(self, coding: str) -> Code:
        """The code of its indices, in a file whose codes are named so."""
        return next(code for code in codes.stored_as(coding) if code.has_table == (self.bits is not None))


@dataclass(frozen=True)
class StoredTable:
    """A code table of gaps.

    Attributes:
        span: Zeros that a filler stands for.
        bits: Length of the table [bit].
    """

    span: int
    bits: int


@dataclass(frozen=True)
class StoredBlock:
    """A block of entries.

    Attributes:
        entries: Number of entries.
        weights: Number of those that are weights; the others are pruned.
        payload: Bits of their indices.
        positions: Bits of their gaps.
        fillers: Number of fillers among these.
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
    """A quantized tensor.

    Attributes:
        name: Its name.
        shape: Its shape.
        dtype: Type of its entries.
        codebook: Which codebook it has.
        table: Which table its gaps have; None if it has none.
        blocks: Its blocks.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    codebook: int
    table: int | None
    blocks: tuple[StoredBlock, ...]

    @property
    def size(self) -> int:
        """Bytes of its section."""
        return sum(block.size for block in self.blocks)


@dataclass(frozen=True)
class RawEntry:
    """A tensor as it was; its section is its bytes."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Bytes of its section."""
        return prod(self.shape) * entry_bytes(self.dtype)


@dataclass(frozen=True)
class Section:
    """A part of the file with a checksum behind it.

    Attributes:
        label: What it is called in errors.
        offset: First byte.
        size: Number of bytes, without the checksum.
    """

    label: str
    offset: int
    size: int

    @property
    def end(self) -> int:
        """First byte behind the checksum."""
        return self.offset + self.size + CHECKSUM


@dataclass(frozen=True)
class Layout:
    """All that the header says.

    Attributes:
        codebooks: The codebooks; their sections come first.
        tables: The tables of gaps; they come next.
        quantized: The quantized tensors, likewise.
        raw: Tensors as they were; these come last.
        tied: Name to the name of the tensor that it is another name of.
        pruned: Whether zeros are left out.
        coding: How indices are coded; see :attr:`nbquant.coding.code.Code.stored`.
        recipe: How the file came about.
        metadata: What the checkpoint that it was made of says about itself.
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
        """Major version: the one that has such codes."""
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
        """Where a tensor is."""
        return self.sections[len(self.codebooks) + len(self.tables) + self._place[entry.name]]

    @property
    def minor(self) -> int:
        """Minor version: the least that has all keys of the header."""
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
        """What :attr:`nbquant.quantization.quantized.Quantized.ledger` says of these tensors."""
        blocks = [block for entry in self.quantized for block in entry.blocks]
        parts = {
            "payload": sum(block.payload for block in blocks),
            "code_table": sum(book.bits or 0 for book in self.codebooks),
            "codebook": sum(book.values_bits for book in self.codebooks),
        }
        if self.pruned:
            parts["position_payload"] = sum(block.positions for block in blocks)
            parts["position_table"] = sum(table.bits for table in self.tables)
        return Ledger(parts)

    @property
    def ledger(self) -> Ledger:
        """Every bit of the file by its part."""
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
    """Bytes that so many bits fill."""
    return -(-bits // 8)


def block_entries(shape: Sequence[int], adaptive: bool) -> list[int]:
    """Number of entries of each block of a tensor; blocks that are coded adaptively are of whole rows."""
    if adaptive:
        return [rows * cols for rows, cols in block_shapes(shape)]
    entries = prod(shape)
    return [min(positions.BLOCK, entries - begin) for begin in range(0, entries, positions.BLOCK)]
