"""Reading of safetensors files by memory mapping, and their atomic writing."""

import json
import math
import mmap
import os
import struct
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nbquant.replacing import replacing

MOST_JSON = 100_000_000  # bytes of a header, which is the library's own limit, or of an index
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
ARRAYS = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "|b1", "F8_E4M3": "|u1", "F8_E5M2": "|u1",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1",
    "F8_E8M0": "|u1",
}  # fmt: skip
"""How numpy reads the bytes of each type; types that it does not have are unsigned integers."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

# Python has no name for it before 3.13; on other systems than Linux it has no effect or none is needed.
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


@dataclass(frozen=True)
class FileSlice:
    """Location of a tensor's bytes.

    Attributes:
        path: The file, absolute and without links.
        offset: First byte.
        size: Number of bytes.
        version: Identity of the file's state: device, inode, size, and the times of the last change
            of its content and of its entry [ns].
    """

    path: Path
    offset: int
    size: int
    version: tuple[int, int, int, int, int]

    @property
    def changed(self) -> int:
        """Time of the file's last change, as of its opening [ns since 1970]."""
        return max(self.version[3:])

    def is_current(self) -> bool:
        """Whether the file has not been changed or replaced since it was opened."""
        try:
            return _version(os.stat(self.path)) == self.version
        except OSError:
            return False


@dataclass(frozen=True)
class StoredTensor:
    """Header entry of a tensor.

    Attributes:
        dtype: Type in safetensors' spelling, such as "BF16".
        shape: Its shape.
        source: Location of its bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    source: FileSlice

    @property
    def count(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class TensorFile:
    """An open file of tensors.

    Attributes:
        path: Path of the file.
        tensors: Entries of all tensors, in the order of the header.
        metadata: Free text of the writer.
    """

    path: Path
    tensors: dict[str, StoredTensor]
    metadata: dict[str, str]
    _bytes: mmap.mmap

    @staticmethod
    def open(path: Path) -> "TensorFile":
        """Read and check the header, and map the rest, which is read from disk when accessed.

        Raises:
            ValueError: Not a complete and consistent safetensors file.
            OSError: A file that does not exist or cannot be read.
        """
        if not path.is_file():
            raise FileNotFoundError(f"a safetensors file is required, but there is no file {str(path)!r}.")
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            start, raw = _read_header(file.read, path, status.st_size)
            header = parse_json(raw, f"the header of {str(path)!r}")
            _require_complete(path, header, start, status.st_size)
            _require_valid(path)
            metadata = header.pop("__metadata__", None) or {}
            places = {
                name: (entry["dtype"], tuple(entry["shape"]), start + entry["data_offsets"][0])
                for name, entry in header.items()
            }
            return TensorFile.of(path, file, places, metadata)

    @staticmethod
    def of(
        path: Path,
        file: BinaryIO,
        places: Mapping[str, tuple[str, tuple[int, ...], int]],
        metadata: Mapping[str, str] | None = None,
    ) -> "TensorFile":
        """Map an open file of any format that stores each tensor contiguously.

        Args:
            path: Path of the file.
            file: The file.
            places: For each name its type in safetensors' spelling, shape, and first byte.
            metadata: Metadata of the file.

        Raises:
            ValueError: A tensor beyond the end of the file, or of an unknown type.
        """
        status = os.fstat(file.fileno())
        real, version = path.resolve(), _version(status)
        tensors = {}
        for name, (dtype, shape, begin) in places.items():
            size = (math.prod(shape) * bits_of(dtype) + 7) // 8
            if begin < 0 or begin + size > status.st_size:
                raise ValueError(
                    f"{str(path)!r} must hold {begin + size:,} bytes for {name!r}, but has {status.st_size:,}: it is "
                    "cut; get it again."
                )
            tensors[name] = StoredTensor(dtype, shape, FileSlice(real, begin, size, version))
        return TensorFile(path, tensors, dict(metadata or {}), _mapped(file.fileno()))

    def tensor(self, name: str) -> Tensor:
        """Make a floating-point tensor over the mapped file; writes to it stay in memory."""
        stored = self.tensors[name]
        dtype = FLOATS[stored.dtype]
        if not stored.count:
            return torch.empty(stored.shape, dtype=dtype)
        flat = torch.frombuffer(self._bytes, dtype=dtype, count=stored.count, offset=stored.source.offset)
        return flat.view(stored.shape)

    def array(self, name: str) -> np.ndarray:
        """Make an array over the mapped file, which may be unaligned; see :data:`ARRAYS` for its type.

        Raises:
            ValueError: A type that numpy has no bytes for.
        """
        stored = self.tensors[name]
        if stored.dtype not in ARRAYS:
            raise ValueError(
                f"a type of whole bytes is required, but {name!r} of {str(self.path)!r} is {stored.dtype}."
            )
        if not stored.count:
            return np.empty(stored.shape, ARRAYS[stored.dtype])
        flat = np.frombuffer(self._bytes, ARRAYS[stored.dtype], stored.count, stored.source.offset)
        return flat.reshape(stored.shape)


def bits_of(dtype: str) -> int:
    """Look up the bits per entry of a type in safetensors' spelling.

    Raises:
        ValueError: An unknown type.
    """
    digits = "".join(c for c in dtype.split("_")[0] if c.isdigit())
    if dtype != "BOOL" and not digits:
        raise ValueError(f"a type as safetensors spells it is required, but {dtype!r} came: get the file again.")
    return 8 if dtype == "BOOL" else int(digits)


def parse_json(raw: bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object without repeated keys.

    Raises:
        ValueError: Anything else.
    """
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} must be JSON, but is not ({error}): get the file again.") from None
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be a JSON object, but is a {type(value).__name__}: get the file again.")
    return value


def refuse_pickle(path: Path) -> None:
    """Refuse files that can only be read by running code in them.

    Raises:
        ValueError: The name of such a file.
    """
    if path.suffix.lower() in PICKLES:
        raise ValueError(
            f"a safetensors file is required, but {path.name!r} is a pickle, which may run code when it is read: "
            "if you trust it, load it with torch and write it with safetensors.torch.save_file(model.state_dict(), …)."
        )


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, or replace it; on failure an existing file stays unchanged.

    Args:
        path: The file, in a folder that exists.
        tensors: Tensors to write; copied only if they are on another device or not contiguous.
        metadata: Text to store with them.

    Raises:
        OSError: A folder that does not exist, is read-only or full.
    """
    with replacing(path) as partial:
        try:
            save_file(_apart(tensors), partial, metadata=dict(metadata))
        except SafetensorError as error:
            raise OSError(f"{str(path)!r} could not be written: {error}") from None


def stream_tensors(
    path: Path,
    tensors: Mapping[str, tuple[str, tuple[int, ...], int]],
    pieces: Callable[[str], Iterable[Tensor]],
    metadata: Mapping[str, str],
) -> None:
    """Write a safetensors file from tensors that come piece by piece, or replace it; see :func:`write_tensors`.

    The library itself writes only tensors that are in memory as a whole.

    Args:
        path: The file, in a folder that exists.
        tensors: For each name its type in safetensors' spelling, shape and number of bytes.
        pieces: Yields the entries of a tensor in order, as CPU tensors of one axis.
        metadata: Text to store with them.

    Raises:
        OSError: A folder that does not exist, is read-only or full.

    Source: https://github.com/huggingface/safetensors, "Format".
    """
    # Widest entries first, so that each tensor is aligned to its own.
    order = sorted(tensors, key=lambda name: (-_entry_bytes(*tensors[name][1:]), name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        dtype, shape, size = tensors[name]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    with replacing(path) as partial, partial.open("xb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for name in order:
            for piece in pieces(name):
                file.write(piece.contiguous().view(torch.uint8).numpy().data)
        assert file.tell() == 8 + len(raw) + end


def _entry_bytes(shape: tuple[int, ...], size: int) -> int:
    return size // max(math.prod(shape), 1)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give each tensor its own storage, as the library requires."""
    apart: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        apart[name] = tensor if whole and tensor.data_ptr() not in seen else tensor.clone()
        seen.add(tensor.data_ptr())
    return apart


def _read_header(read: Any, path: Path, size: int) -> tuple[int, bytes]:
    """Start of the data, and the header; no more is read than the file and the limit allow."""
    prefix = read(8)
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else None
    if length is None or length > MOST_JSON or 8 + length > size:
        came = f"its {size} bytes" if length is None else f"a header of {length} bytes in a file of {size}"
        raise ValueError(
            f"a safetensors file must start with the length of its header, at most {MOST_JSON} bytes and within the "
            f"file, but {str(path)!r} has {came}: it is truncated or of another kind; get it again."
        )
    return 8 + length, read(length)


def _require_complete(path: Path, header: Mapping[str, Any], start: int, size: int) -> None:
    """Report by how much a file is truncated; other damage is left to the library."""
    offsets = [entry.get("data_offsets") for entry in header.values() if isinstance(entry, dict)]
    ends = [o[1] for o in offsets if isinstance(o, list) and len(o) == 2 and isinstance(o[1], int)]
    required = start + max(ends, default=0)
    if size < required:
        raise ValueError(
            f"{str(path)!r} must have {required} bytes by its header, but has {size}: it is truncated; get it again."
        )


def _require_valid(path: Path) -> None:
    try:
        with safe_open(path, framework="numpy") as file:
            file.keys()
    except SafetensorError as error:
        raise ValueError(
            f"{str(path)!r} must be a valid safetensors file, but is not ({error}): get or write it again."
        ) from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} comes twice")
        found[name] = value
    return found


def _mapped(file: int) -> mmap.mmap:
    """Map the whole file privately: writable, so that a write to a tensor does not crash, but never stored."""
    if os.name == "nt":
        return mmap.mmap(file, 0, access=mmap.ACCESS_COPY)
    # Without the flag Linux refuses a private mapping larger than memory and swap, as it might be written to.
    return mmap.mmap(file, 0, flags=mmap.MAP_PRIVATE | _NO_RESERVE, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def _version(status: os.stat_result) -> tuple[int, int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
