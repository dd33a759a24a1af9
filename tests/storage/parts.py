"""A .nbq file taken apart and put together again with its lengths and checksums made right; written apart from the
reader and the writer, by FORMAT.md."""

import json
import struct
import zlib
from dataclasses import dataclass
from hashlib import blake2b
from math import prod
from typing import Any

from nbquant.quantization.blocks import formats
from nbquant.storage.parts import parts_of

MAGIC = b"\x89nbq\r\n\x1a\n"
SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8, "I64": 8, "F8_E4M3": 1, "F8_E5M2": 1,
    "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1, "F16": 2, "BF16": 2, "F32": 4, "F64": 8, "C64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """Header and sections, without lengths and checksums."""

    header: bytes
    sections: tuple[bytes, ...]
    major: int = 1
    minor: int = 0

    @staticmethod
    def of(data: bytes, block: int) -> "Parts":
        """Those of an undamaged file whose blocks have so many entries."""
        (length,) = struct.unpack("<I", data[12:16])
        header, at, sections = data[16 : 16 + length], 20 + length, []
        for kind in section_kinds(json.loads(header), block):
            sections.append(data[at : at + kind.size])
            at += kind.size + 4
        parts = Parts(header, tuple(sections), data[8], data[10])
        assert parts.file() == data
        return parts

    def file(self, major: int | None = None, minor: int | None = None) -> bytes:
        """The file of these parts, of their version or another."""
        major = self.major if major is None else major
        minor = self.minor if minor is None else minor
        data = bytearray(MAGIC + struct.pack("<HHI", major, minor, len(self.header)) + self.header)
        data += struct.pack("<I", zlib.crc32(data))
        for section in self.sections:
            data += section + struct.pack("<I", zlib.crc32(section))
        return bytes(data + blake2b(data, digest_size=16).digest())


@dataclass(frozen=True)
class SectionKind:
    """What a section holds: its table and row in the header, its size, and that of a codebook's values [bytes]."""

    table: str
    row: int
    size: int
    values: int = 0


def column(table: dict[str, Any], key: str, rows: int) -> list[Any]:
    return table[key] if isinstance(table[key], list) else [table[key]] * rows


def blocks_of_rows(shape: list[int], block: int) -> int:
    """Number of blocks of a tensor that is coded adaptively."""
    rows, cols = (shape[0] if shape else 1), prod(shape[1:])
    if not rows * cols:
        return 0
    return rows * -(-cols // block) if cols > block else -(-rows // (block // cols))


def section_kinds(header: dict[str, Any], block: int) -> list[SectionKind]:
    """The sections that a header announces; of a wrong header any exception, or nonsense."""
    found = []
    books = header.get("codebooks", {"name": []})
    rows = len(books["name"])
    if rows:
        bare = {"bits": None, "span": None, "format": None} | books
        fields = (column(bare, key, rows) for key in ("levels", "dtype", "bits", "span", "format"))
        for row, (levels, dtype, bits, span, form) in enumerate(zip(*fields, strict=True)):
            values = levels * SIZES[dtype] if span is None else 8 + -(-span // 8)
            values = values if form is None else -(-len(formats.named(form).levels) // 8)
            found.append(SectionKind("codebooks", row, values + -(-(bits or 0) // 8), values))
    tables = header.get("tables", {"span": []})
    rows = len(tables["span"])
    found += [
        SectionKind("tables", row, -(-bits // 8))
        for row, bits in enumerate(column(tables, "bits", rows) if rows else [])
    ]
    quantized = header.get("quantized", {"name": [], "shape": []})
    if header.get("coding") == "context":
        counts = [blocks_of_rows(shape, block) for shape in quantized["shape"]]
    else:
        counts = [-(-prod(shape) // block) for shape in quantized["shape"]]
    if sum(counts) > 1 << 12:
        raise ValueError("more blocks than are looked at")
    blocks = header.get("blocks", {})
    streams = [column(blocks, key, sum(counts)) for key in ("positions", "payload") if key in blocks]
    sizes = [sum(-(-bits // 8) for bits in row) for row in zip(*streams, strict=True)]
    own = column(books, "format", len(books["name"])) if "format" in books else [None] * len(books["name"])
    for row, count in enumerate(counts):
        form = own[column(quantized, "codebook", len(counts))[row]]
        scales = sum(part.size for part in parts_of(form, quantized["shape"][row])) if form else 0
        found.append(SectionKind("quantized", row, sum(sizes[:count]) + scales))
        sizes = sizes[count:]
    raw = header.get("raw", {"name": [], "shape": []})
    rows = len(raw["name"])
    if rows:
        for row, (shape, dtype) in enumerate(zip(raw["shape"], column(raw, "dtype", rows), strict=True)):
            found.append(SectionKind("raw", row, prod(shape) * SIZES[dtype]))
    return found
