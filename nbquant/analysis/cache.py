"""On-disk cache of histograms: reopening a checkpoint need not read its weights.

The key of an entry is the content of weights and sensitivities, whatever file they are in, and the source code that
computes histograms, so that a new version ignores old entries. To avoid even hashing the content again, small notes
record the digest of a file's part as long as its size, inode and times are unchanged. A file modified so recently
that another change might not show in its times gets no note. Entries are never trusted: each has a checksum, and a
damaged entry is deleted and computed again.
"""

import hashlib
import os
import re
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import platformdirs
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor

from nbquant import kernels
from nbquant.coding import positions
from nbquant.coding.positions import GapHistogram
from nbquant.kernels.keys import ROW_KEYS, ROWS
from nbquant.quantization import histogram
from nbquant.quantization.histogram import Bins, H, Histogram, N
from nbquant.quantization.tensor import SelectedTensor
from nbquant.replacing import replacing
from nbquant.tensorfile import FileSlice

VARIABLE = "NBQUANT_CACHE"
LEAST_WEIGHTS = 1 << 16  # smaller tensors are computed faster than read
MOST_BYTES = 2 << 30  # of all files; the least recently used are deleted first
MOST_ENTRY_BYTES = 1 << 28

_OURS = re.compile(r"[0-9a-f]{64}\.(statistics|digest)|\.[0-9a-f]{64}\.(statistics|digest)\.[0-9a-f]+\.partial")
_CHECKSUM_BYTES = 32
_CHUNK = 1 << 24  # bytes hashed at a time
_SETTLED_NS = 2_000_000_000  # the coarsest timestamps of file systems have 2 s
_BLOCK = 4096  # bytes used by even the smallest file

_warned: set[Path] = set()
_written: dict[Path, int] = {}  # bytes written since a folder's size was last checked


def folder() -> Path | None:
    """Locate the cache folder: the user's cache folder, or ``NBQUANT_CACHE``; None if that is empty."""
    given = os.environ.get(VARIABLE)
    if given is None:
        return platformdirs.user_cache_path("nbquant", appauthor=False)
    return Path(given).expanduser() if given else None


def cached(
    tensor: SelectedTensor, compute: Callable[[], tuple[Histogram, GapHistogram]]
) -> tuple[Histogram, GapHistogram]:
    """Read the histogram and gaps of a tensor from the cache, or compute and store them.

    A cache that cannot be written causes one ``RuntimeWarning`` and changes no result.

    Args:
        tensor: The tensor; those in memory and small ones are always computed.
        compute: Computes the result. Its exceptions propagate, and nothing is stored.
    """
    where = folder()
    if where is None or tensor.weight_source is None or tensor.weight.numel() < LEAST_WEIGHTS:
        return compute()
    key = _key(where, tensor)
    path = where / f"{key}.statistics"
    found = _read(path, key, tensor.weight.numel())
    if found is None:
        found = compute()
        # Otherwise the key could be that of the bytes before a change, and the result that after it.
        if all(s.is_current() for s in (tensor.weight_source, tensor.sensitivity_source) if s is not None):
            _write(path, _packed(key, *found))
    return found


def _key(where: Path, tensor: SelectedTensor) -> str:
    weight = _digest(where, tensor.weight, tensor.weight_source)
    h = tensor.sensitivity
    sensitivity = None if h is None else (_digest(where, h, tensor.sensitivity_source), str(h.dtype))
    content = (weight, str(tensor.weight.dtype), tuple(tensor.weight.shape), sensitivity)
    return hashlib.sha256(repr((_code(), content)).encode()).hexdigest()


@cache
def _code() -> str:
    """Digest of all source code that determines the entries."""
    digest = hashlib.sha256()
    modules = (Path(str(module.__file__)) for module in (histogram, positions))
    for path in (*sorted(Path(kernels.__path__[0]).rglob("*.py")), *modules, Path(__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _digest(where: Path, values: Tensor, source: FileSlice | None) -> str:
    """Digest of a tensor's bytes, from a note if its file is unchanged."""
    # Writes to a mapped tensor stay in memory: its file does not show them.
    if source is None or values._version > 0:
        return _digest_of_bytes(values)
    note = where / f"{hashlib.sha256(repr(source).encode()).hexdigest()}.digest"
    known = _read_note(note)
    if known is not None and source.is_current():
        return known
    begun = time.time_ns()
    digest = _digest_of_bytes(values)
    # Measured from before the bytes were read, so that a change meanwhile shows.
    if begun - source.changed >= _SETTLED_NS and source.is_current():
        _write(note, f"{digest} {_checksum(note.stem, digest.encode()).hex()}\n".encode())
    return digest


def _digest_of_bytes(values: Tensor) -> str:
    content = values.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    digest = hashlib.sha256()
    for begin in range(0, len(content), _CHUNK):
        digest.update(content[begin : begin + _CHUNK].data)
    return digest.hexdigest()


def _read_note(note: Path) -> str | None:
    raw = _content(note, 256)
    if raw is None:
        return None
    digest, _, checksum = raw.decode("ascii", "replace").strip().partition(" ")
    if checksum == _checksum(note.stem, digest.encode()).hex():
        return digest
    _remove(note)
    return None


def _read(path: Path, key: str, count: int) -> tuple[Histogram, GapHistogram] | None:
    raw = _content(path, MOST_ENTRY_BYTES)
    if raw is None:
        return None
    found = None
    if raw[:_CHECKSUM_BYTES] == _checksum(key, raw[_CHECKSUM_BYTES:]):
        with suppress(SafetensorError, KeyError, ValueError):
            found = _unpacked(load(raw[_CHECKSUM_BYTES:]), count)
    if found is None:
        _remove(path)
    return found


def _content(path: Path, most: int) -> bytes | None:
    """Content of a file, marked as just used; None if it does not exist or cannot be read."""
    try:
        with path.open("rb") as file:
            raw = file.read(most + 1)
        os.utime(path)
    except OSError:
        return None
    return raw


def _checksum(name: str, content: bytes) -> bytes:
    """Checksum that includes the name, so that no entry passes for another."""
    return hashlib.sha256(name.encode() + content).digest()


def _packed(key: str, found: Histogram, gaps: GapHistogram) -> bytes:
    arrays = {
        "marginal_key": found.marginal.key,
        "marginal_sums": found.marginal.sums,
        "joint_key": found.joint.key,
        "gaps": gaps.gaps,
        "gap_counts": gaps.counts,
    }
    if found.joint.sums is not found.marginal.sums:  # shared if there are no sensitivities
        arrays["joint_sums"] = found.joint.sums
    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return _checksum(key, content) + content


def _unpacked(arrays: dict[str, np.ndarray], count: int) -> tuple[Histogram, GapHistogram] | None:
    """Invert :func:`_packed`; None unless the result fits a tensor of ``count`` weights."""
    marginal = Bins(arrays["marginal_key"], arrays["marginal_sums"])
    joint = Bins(arrays["joint_key"], arrays.get("joint_sums", marginal.sums))
    gaps = GapHistogram(arrays["gaps"], arrays["gap_counts"])
    if not (_fits(marginal, count, 1) and _fits(joint, count, ROWS // 2) and _ascends(gaps.gaps, count)):
        return None
    found = Histogram(marginal, joint)
    # A tensor without zeros has no gaps to code.
    counted = gaps.counts.dtype == np.int64 and gaps.counts.shape == gaps.gaps.shape and (gaps.counts > 0).all()
    return (found, gaps) if counted and gaps.total <= count - found.zeros else None


def _fits(bins: Bins, count: int, rows: int) -> bool:
    sums = bins.sums
    if not _ascends(bins.key, rows * ROW_KEYS) or sums.dtype != np.float64 or sums.shape != (len(bins.key), 4):
        return False
    n, h = sums[:, N], sums[:, H]
    return bool(np.isfinite(sums).all() and (n >= 1).all() and (h > 0).all() and n.sum() == count)


def _ascends(key: np.ndarray, end: int) -> bool:
    if key.dtype != np.int64 or key.ndim != 1:
        return False
    return not len(key) or bool(key[0] >= 0 and key[-1] < end and (np.diff(key) > 0).all())


def _write(path: Path, content: bytes) -> None:
    where = path.parent
    try:
        where.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replacing(path, durable=False) as partial:
            partial.write_bytes(content)
    except OSError as error:
        if where not in _warned:
            _warned.add(where)
            warnings.warn(
                f"histograms cannot be cached in {str(where)!r} ({error.strerror or error}), so they are recomputed "
                f"each time: free some space there, or set {VARIABLE} to another folder, or to nothing for no cache.",
                RuntimeWarning,
                stacklevel=2,
            )
        return
    # On the first write, and then whenever enough has been written to matter.
    _written[where] = _written.get(where, MOST_BYTES) + max(len(content), _BLOCK)
    if _written[where] > MOST_BYTES // 64:
        _written[where] = 0
        _shrink(where)


def _shrink(where: Path) -> None:
    """Delete the least recently used files until the size limit is met."""
    entries = []
    with suppress(OSError), os.scandir(where) as scan:
        for entry in scan:
            with suppress(OSError):
                if _OURS.fullmatch(entry.name):
                    status = entry.stat(follow_symlinks=False)
                    entries.append((status.st_mtime_ns, max(status.st_size, _BLOCK), entry.path))
    excess = sum(size for _, size, _ in entries) - MOST_BYTES
    for _, size, path in sorted(entries):
        if excess <= 0:
            return
        _remove(Path(path))
        excess -= size


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
