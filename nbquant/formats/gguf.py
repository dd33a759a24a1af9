"""GGUF files: the header, and tensors in blocks.

Of the header only what is needed is kept: arrays, such as the vocabulary, are skipped. The gguf library reads them into
Python objects, which takes seconds and, for a damaged length, all memory.

Source: the GGUF specification of the ggml project, versions 2 and 3.
"""

import mmap
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from nbquant.formats.gguf_names import heads_of, original_names
from nbquant.formats.packed_tensor import PackedFile, PackedFileFormat, PackedTensor, as_float32
from nbquant.quantization.blocks import formats as blocks
from nbquant.quantization.blocks.block_codes import BlockCodes
from nbquant.quantization.blocks.block_format import BlockFormat

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32  # bytes, unless the metadata say otherwise
MOST_AXES = 4
MOST_TEXT = 200  # characters of a text that are kept
MOST_NESTED = 4  # arrays within arrays
SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")

_NUMBERS = {0: "B", 1: "b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "?", 10: "<Q", 11: "<q", 12: "<d"}
_TEXT, _ARRAY = 8, 9

PLAIN = {0: ("F32", "<f4"), 1: ("F16", "<f2"), 28: ("F64", "<f8"), 30: ("BF16", "<u2")}
"""Types of unquantized floating-point tensors: name, and how numpy reads them."""
INTEGERS = {24: ("I8", 8), 25: ("I16", 16), 26: ("I32", 32), 27: ("I64", 64)}
BLOCKS = {
    2: ("q4_0", 32, 18),
    3: ("q4_1", 32, 20),
    6: ("q5_0", 32, 22),
    7: ("q5_1", 32, 24),
    8: ("q8_0", 32, 34),
    10: ("q2_k", 256, 84),
    11: ("q3_k", 256, 110),
    12: ("q4_k", 256, 144),
    13: ("q5_k", 256, 176),
    14: ("q6_k", 256, 210),
    16: ("iq2_xxs", 256, 66),
    17: ("iq2_xs", 256, 74),
    18: ("iq3_xxs", 256, 98),
    19: ("iq1_s", 256, 50),
    20: ("iq4_nl", 32, 18),
    21: ("iq3_s", 256, 110),
    22: ("iq2_s", 256, 82),
    23: ("iq4_xs", 256, 136),
    29: ("iq1_m", 256, 56),
    34: ("tq1_0", 256, 54),
    35: ("tq2_0", 256, 66),
    39: ("mxfp4", 32, 17),
    40: ("nvfp4", 64, 36),
}
"""Types in blocks: name, weights and bytes of a block. Q8_1 and Q8_K are never in files."""
NAMES = {"mxfp4": "mxfp4_gguf", "nvfp4": "nvfp4_gguf"}
"""Block formats whose bytes in GGUF are not those of the published format of that name."""


@dataclass(frozen=True)
class _Entry:
    name: str
    shape: tuple[int, ...]
    type: int
    offset: int


class _Header:
    """A cursor over the mapped header; no length in it is believed before the bytes are there."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.at = path, data, 0

    def number(self, format: str) -> int | float | bool:
        size = struct.calcsize(format)
        self.require(size)
        value: int | float | bool = struct.unpack_from(format, self.data, self.at)[0]
        self.at += size
        return value

    def count(self, format: str, least_bytes: int, what: str) -> int:
        """Read a number of things that take at least so many bytes each."""
        count = int(self.number(format))
        if count * least_bytes > len(self.data) - self.at:
            raise self.damaged(f"it announces {count:,} {what}, more than fit into its {len(self.data):,} bytes")
        return count

    def text(self, most: int | None = None) -> str:
        size = self.count("<Q", 1, "bytes of text")
        raw = self.data[self.at : self.at + (size if most is None else min(size, 4 * most))]
        self.at += size
        return raw.decode("utf-8", errors="replace")[:most]

    def skip_text(self) -> None:
        size = self.count("<Q", 1, "bytes of text")
        self.at += size

    def value(self, depth: int = 0) -> object:
        """Read a value of the metadata; of an array only what it holds."""
        kind = int(self.number("<I"))
        if kind == _TEXT:
            return self.text(MOST_TEXT)
        if kind == _ARRAY:
            return self._array(depth)
        return self.number(self._format(kind))

    def _array(self, depth: int) -> str:
        if depth >= MOST_NESTED:
            raise self.damaged(f"its metadata hold arrays nested more than {MOST_NESTED} deep")
        kind = int(self.number("<I"))
        if kind == _TEXT:
            count = self.count("<Q", 8, "texts")
            for _ in range(count):
                self.skip_text()
        elif kind == _ARRAY:
            count = self.count("<Q", 12, "arrays")
            for _ in range(count):
                self._array(depth + 1)
        else:
            size = struct.calcsize(self._format(kind))
            count = self.count("<Q", size, "numbers")
            self.at += count * size
        return f"array of {count:,}"

    def _format(self, kind: int) -> str:
        if kind not in _NUMBERS:
            raise self.damaged(f"its metadata have a value of the unknown type {kind}")
        return _NUMBERS[kind]

    def require(self, size: int) -> None:
        if self.at + size > len(self.data):
            raise self.damaged(f"its header ends at byte {self.at:,}")

    def damaged(self, how: str) -> ValueError:
        return ValueError(f"{str(self.path)!r} must be a complete GGUF file, but {how}: get the file again.")


def is_gguf(path: Path) -> bool:
    """Whether a file starts as GGUF files do, or is named as one."""
    if path.suffix.lower() == ".gguf":
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == MAGIC


def open_gguf(path: Path) -> PackedFile:
    """Open a GGUF file, or all files of a network split into several.

    Raises:
        ValueError: A damaged or incomplete file, a name that comes twice, or a version that is not known.
        OSError: A file that does not exist or cannot be read.
    """
    tensors: dict[str, PackedTensor] = {}
    metadata: dict[str, str] = {}
    for shard in _shards(path):
        found, about = _open(shard)
        metadata = about | metadata
        for name, tensor in found.items():
            if name in tensors:
                raise ValueError(f"a tensor must come once, but {name!r} is in two files of {str(path)!r}.")
            tensors[name] = tensor
    heads = {name: heads_of(name, metadata) for name in tensors}
    return PackedFile(path, "GGUF", {n: replace(t, heads=heads[n]) for n, t in tensors.items()}, metadata)


def _shards(path: Path) -> list[Path]:
    found = SHARD.fullmatch(path.name)
    if found is None:
        return [path]
    shards = [path.with_name(f"{found[1]}-{i + 1:05d}-of-{found[3]}.gguf") for i in range(int(found[3]))]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise FileNotFoundError(
            f"all {len(shards)} files of {found[1]!r} are required, but {len(missing)} are missing, such as "
            f"{missing[0]!r}: get them, into one folder."
        )
    return shards


def _open(path: Path) -> tuple[dict[str, PackedTensor], dict[str, str]]:
    with path.open("rb") as file:
        if not file.read(1):
            raise ValueError(f"{str(path)!r} must be a complete GGUF file, but is empty: get the file again.")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    header = _Header(path, data)
    if data[:4] != MAGIC:
        raise header.damaged(f"starts with {data[:4]!r}")
    header.at = 4
    version = int(header.number("<I"))
    if version not in VERSIONS:
        raise header.damaged(f"has version {version}, while {VERSIONS[0]} and {VERSIONS[1]} are known")
    count = header.count("<Q", 24, "tensors")
    pairs = header.count("<Q", 12, "metadata")
    metadata = {}
    for _ in range(pairs):
        key = header.text(MOST_TEXT)
        metadata[key] = str(header.value())
    entries = [_entry(header) for _ in range(count)]
    alignment = _alignment(header, metadata)
    start = -(-header.at // alignment) * alignment
    _require_apart(header, entries, start)
    mapped = np.frombuffer(data, np.uint8)
    return {entry.name: _tensor(entry, mapped[start + entry.offset :]) for entry in entries}, metadata


def _alignment(header: _Header, metadata: Mapping[str, str]) -> int:
    given = metadata.get("general.alignment", str(ALIGNMENT))
    if not given.isdecimal() or not 1 <= int(given) <= 1 << 20:
        raise header.damaged(f"its alignment is {given}")
    return int(given)


def _entry(header: _Header) -> _Entry:
    name = header.text()
    axes = int(header.number("<I"))
    if not 1 <= axes <= MOST_AXES:
        raise header.damaged(f"tensor {name!r} has {axes} axes, not 1 to {MOST_AXES}")
    shape = tuple(int(header.number("<Q")) for _ in range(axes))[::-1]  # stored with the last axis first
    return _Entry(name, shape, int(header.number("<I")), int(header.number("<Q")))


def _size(header: _Header, entry: _Entry) -> int:
    """Bytes of a tensor."""
    count = prod(entry.shape)
    if entry.type in PLAIN:
        return count * np.dtype(PLAIN[entry.type][1]).itemsize
    if entry.type in INTEGERS:
        return count * INTEGERS[entry.type][1] // 8
    if entry.type not in BLOCKS:
        raise header.damaged(f"tensor {entry.name!r} has the unknown type {entry.type}")
    name, length, size = BLOCKS[entry.type]
    if entry.shape[-1] % length:
        raise header.damaged(f"rows of {entry.name!r} have {entry.shape[-1]} weights, no multiple of {name}'s {length}")
    return count // length * size


def _require_apart(header: _Header, entries: list[_Entry], start: int) -> None:
    """Refuse tensors without entries, beyond the end, over one another, or of one name."""
    end, before, names = 0, "", set()
    for entry in sorted(entries, key=lambda entry: entry.offset):
        if entry.name in names:
            raise header.damaged(f"tensor {entry.name!r} comes twice")
        names.add(entry.name)
        if prod(entry.shape) == 0:
            raise header.damaged(f"tensor {entry.name!r} has the shape {entry.shape}, without a weight")
        size = _size(header, entry)
        if start + entry.offset + size > len(header.data):
            raise header.damaged(
                f"tensor {entry.name!r} ends at byte {start + entry.offset + size:,}, beyond the file's "
                f"{len(header.data):,}: it is cut"
            )
        if entry.offset < end:
            raise header.damaged(f"tensors {before!r} and {entry.name!r} overlap")
        end, before = entry.offset + size, entry.name


def _tensor(entry: _Entry, data: UInt8[np.ndarray, " bytes"]) -> PackedTensor:
    others = original_names(entry.name)
    columns = entry.shape[-1] if len(entry.shape) == 1 else prod(entry.shape[1:])
    count = prod(entry.shape)
    if entry.type in PLAIN:
        kind, dtype = PLAIN[entry.type]
        size = np.dtype(dtype).itemsize
        values = partial(_plain, data[: count * size].view(dtype).reshape(-1, columns), kind)
        return PackedTensor(entry.name, entry.shape, kind, None, 8 * count * size, None, values, others)
    if entry.type in INTEGERS:
        kind, bits = INTEGERS[entry.type]
        return PackedTensor(entry.name, entry.shape, kind, None, bits * count, None, None, others)
    kind, length, size = BLOCKS[entry.type]
    total = count // length * size
    known = NAMES.get(kind, kind)
    found = blocks.named(known) if known in blocks.names() else None
    if found is None:
        return PackedTensor(entry.name, entry.shape, kind, None, 8 * total, None, None, others)
    raw = data[:total].reshape(-1, columns // length * size)
    codes, decoded = partial(_codes, found, raw, columns), partial(_values, found, raw, columns)
    return PackedTensor(entry.name, entry.shape, kind, found, 8 * total, codes, decoded, others)


def _plain(stored: np.ndarray, kind: str, first: int, last: int) -> Float32[np.ndarray, "rows columns"]:
    return as_float32(stored[first:last], kind)


def _codes(found: BlockFormat, raw: np.ndarray, columns: int, first: int, last: int) -> BlockCodes:
    return found.unpack(raw[first:last].reshape(-1), (last - first, columns))


def _values(
    found: BlockFormat, raw: np.ndarray, columns: int, first: int, last: int
) -> Float32[np.ndarray, "rows columns"]:
    with np.errstate(over="ignore", invalid="ignore"):  # scales may be NaN or infinite
        return found.decode_bytes(raw[first:last].reshape(-1), (last - first, columns))


GGUF = PackedFileFormat("GGUF", is_gguf, open_gguf)
