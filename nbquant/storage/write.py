"""Writing quantized models to .nbq files."""

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
from torch import nn

from nbquant.coding import codes
from nbquant.coding.code_table import encode_lengths
from nbquant.coding.ledger import Ledger
from nbquant.kernels import dispatch
from nbquant.progress import Progress, track
from nbquant.quantization.codebook import BlockLevels, Lattice, QuantizedTensor
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.streams import adaptive_streams
from nbquant.replacing import replacing
from nbquant.required import require_path
from nbquant.storage.blocks import encode_block
from nbquant.storage.dtypes import as_bytes
from nbquant.storage.layout import (
    DIGEST,
    MAGIC,
    Layout,
    QuantizedEntry,
    StoredBlock,
)
from nbquant.storage.parts import encode_part
from nbquant.storage.plan import PlannedCodes, indices, plan, slices
from nbquant.storage.source import UnquantizedTensors, unquantized_of


def save(
    quantized: Quantized,
    path: str | os.PathLike[str],
    model: nn.Module | str | os.PathLike[str] | None = None,
    *,
    progress: Progress = True,
) -> Ledger:
    """Write a quantized model to a file from which all its tensors can be restored bit for bit.

    The same input gives the same bytes. An existing file is replaced only when the new one is complete; if
    anything fails, it stays unchanged.

    Args:
        quantized: The quantized selection.
        path: The file, ending in .nbq, in a folder that exists.
        model: The module or checkpoint path selected from: provides the parameters and buffers that are
            not quantized, further names of tied parameters, and the metadata of a checkpoint. None if the
            selection is complete.
        progress: See :data:`nbquant.progress.Progress`; counts blocks and tensors that are not quantized.

    Returns:
        Every bit of the file, by part: those of ``quantized.ledger``, "unquantized", "header" (names, shapes,
        recipe, metadata), "container" (magic, version, checksums) and "padding" (bits that fill bytes). Sums to 8
        times its size.

    Raises:
        ValueError: Another ending, a model that does not fit, no model although there is more to store, a codebook that
            is not finite.
        TypeError: Arguments of other types.
        OSError: A folder that does not exist, is read-only or full.
        Cancelled: By ``progress``.
    """
    if not isinstance(quantized, Quantized):
        raise TypeError(
            f"the result of nbquant.fit is required, but a {type(quantized).__name__} came: save(quantized, path, …)."
        )
    require_path("path", path)
    path = Path(path)
    if path.suffix != ".nbq":
        raise ValueError(f"the name of the file must end in .nbq, but {path.name!r} came: add the ending.")
    quantized.require_whole()
    unquantized = unquantized_of(model, quantized)
    layout, made, header = plan(quantized, unquantized)
    steps = sum(len(entry.blocks) for entry in layout.quantized) + len(layout.raw)
    ticks = track(range(steps), "save", progress)
    next(ticks, None)
    with replacing(path) as partial, partial.open("xb") as file:
        _write(file, header, quantized, layout, made, unquantized, ticks)
        assert file.tell() == layout.size, f"{file.tell()} bytes of {layout.size}"
    return layout.ledger


def file_ledger(quantized: Quantized, model: nn.Module | str | os.PathLike[str] | None = None) -> Ledger:
    """Compute the result of :func:`save` without writing a file.

    Raises:
        ValueError, TypeError: As :func:`save`.
        OSError: A checkpoint that does not exist or cannot be read.
    """
    return plan(quantized, unquantized_of(model, quantized))[0].ledger


class _Checked:
    """A file with a checksum of each section and a digest of all."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest = file, blake2b(digest_size=DIGEST)

    def section(self, pieces: Iterable[bytes | memoryview]) -> None:
        checksum = 0
        for piece in pieces:
            checksum = zlib.crc32(piece, checksum)
            self._put(piece)
        self._put(struct.pack("<I", checksum))

    def end(self) -> None:
        self._file.write(self._digest.digest())

    def _put(self, piece: bytes | memoryview) -> None:
        self._digest.update(piece)
        self._file.write(piece)


def _write(
    file: BinaryIO,
    header: bytes,
    quantized: Quantized,
    layout: Layout,
    made: PlannedCodes,
    unquantized: UnquantizedTensors,
    ticks: Iterator[object],
) -> None:
    out = _Checked(file)
    out.section([MAGIC + struct.pack("<HHI", layout.major, layout.minor, len(header)) + header])
    for stored, book in zip(layout.codebooks, quantized.codebooks.values(), strict=True):
        code = made.of_group.get(stored.name)
        table = code.encode_table() if stored.bits and code is not None else b""
        values = _lattice(book.lattice) if book.lattice and stored.lattice else as_bytes(book.value.detach().cpu())
        if book.levels is not None:
            values = _levels(book.levels, stored.values_bits)
        out.section([values, table])
    for gaps in made.of_gaps:
        out.section([encode_lengths(gaps.code.lengths)])
    for entry in layout.quantized:
        tensor = quantized.tensors[entry.name]
        if layout.adaptive:
            kind = codes.named(quantized.quantizer.coding)
            book = quantized.codebooks[quantized.group_of(entry.name)]
            streams = _unchanged(adaptive_streams(tensor, book, kind, layout.pruned), entry)
        else:
            streams = _streams(tensor, entry, layout, made)
        parts = () if tensor.scaling is None else tensor.scaling.parts
        out.section(chain(_ticking(streams, ticks), map(encode_part, parts)))
    for i in range(len(layout.raw)):
        out.section(unquantized.pieces(i))
        next(ticks, None)
    out.end()


def _streams(tensor: QuantizedTensor, entry: QuantizedEntry, layout: Layout, made: PlannedCodes) -> Iterator[bytes]:
    code = made.of_group[layout.codebooks[entry.codebook].name]
    gaps = None if entry.table is None else made.of_gaps[entry.table]

    def encoded(place: slice, block: StoredBlock) -> bytes:
        return encode_block(indices(tensor, place), block, code, gaps)

    return dispatch.in_order(encoded, zip(slices(tensor), entry.blocks, strict=True))


def _lattice(lattice: Lattice) -> bytes:
    """The step, and a bit for each integer from the first to the last: whether it is in use."""
    integer = lattice.integer.cpu().numpy()
    used = np.zeros(integer[-1] - integer[0] + 1 if len(integer) else 0, bool)
    used[integer - integer[0] if len(integer) else []] = True
    return struct.pack("<d", lattice.step) + np.packbits(used).tobytes()


def _levels(levels: BlockLevels, count: int) -> bytes:
    """A bit for each code of a block format: whether it is in use."""
    used = np.zeros(count, bool)
    used[levels.codes] = True
    return np.packbits(used).tobytes()


def _unchanged(streams: Iterable[bytes], entry: QuantizedEntry) -> Iterator[bytes]:
    for stream, block in zip(streams, entry.blocks, strict=True):
        if 8 * len(stream) != block.payload:
            raise ValueError(
                f"the indices of {entry.name!r} must be those that were quantized, but were changed: quantize again."
            )
        yield stream


def _ticking(pieces: Iterable[bytes], ticks: Iterator[object]) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        next(ticks, None)
