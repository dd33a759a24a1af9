"""Stored models: opening .nbq files and decoding their tensors on demand."""

import copy
import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from difflib import get_close_matches
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor, nn

from nbquant.coding import codes, positions
from nbquant.coding.code import Code, ideal_lengths
from nbquant.coding.huffman import symbol_counts
from nbquant.coding.ledger import Ledger
from nbquant.coding.levels import block_shapes
from nbquant.duplicate import duplicate
from nbquant.kernels import dispatch
from nbquant.listed import listed
from nbquant.models.layers import owner
from nbquant.progress import Progress, track
from nbquant.quantization.codebook import PRUNED, Codebook, QuantizedTensor, Scaling, alphabet_of
from nbquant.quantization.members import index_dtype
from nbquant.quantization.quantized import Quantized
from nbquant.required import require_path
from nbquant.storage.blocks import decode_block, decode_matrix
from nbquant.storage.books import Book, read_book, read_gap_code
from nbquant.storage.dtypes import DTYPES, as_bytes, entry_bytes, of_bytes
from nbquant.storage.errors import CorruptFileError
from nbquant.storage.frame import frame_of
from nbquant.storage.layout import Layout, QuantizedEntry, RawEntry, StoredBlock
from nbquant.storage.parts import decode_part
from nbquant.storage.recipe import distortion_of, finetuned_of, quantizer_of, record_of
from nbquant.storage.sections import damage_of, open_layout, reading


def load(path: str | os.PathLike[str], *, max_bytes: int | None = None) -> "Stored":
    """Open a file written by :func:`nbquant.save`.

    All checksums are verified in one pass; nothing is decoded. The file must exist as long as it is read from.

    Args:
        path: The file.
        max_bytes: Limit on the total bytes of the restored tensors; None allows 256 MiB plus 4096 times the file's
            size, more than networks need but harmless.

    Raises:
        CorruptFileError: Another kind of file, another version, a damaged or truncated file, or one above the limit.
        OSError: A file that does not exist or cannot be read.
    """
    require_path("path", path)
    path = Path(path).absolute()
    layout = open_layout(path, max_bytes)
    return Stored(path, layout.size, layout)


@dataclass(frozen=True, eq=False, repr=False)
class Stored:
    """A quantized model in a file.

    Reads verify the data again: a file that was changed in the meantime gives a ``CorruptFileError``.

    Attributes:
        path: The file.
        size: Its size [byte].
    """

    path: Path
    size: int
    _layout: Layout
    _read: dict[int, Book] = field(default_factory=dict)

    @property
    def ledger(self) -> Ledger:
        """Every bit of the file, by part; sums to 8 times ``size``."""
        return self._layout.ledger

    @property
    def recipe(self) -> dict[str, Any]:
        """Record of the quantization: quantizer, sensitivity, distortion, version."""
        return copy.deepcopy(dict(self._layout.recipe))

    @property
    def metadata(self) -> dict[str, str]:
        """Metadata of the original checkpoint; empty if it had none."""
        return dict(self._layout.metadata)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors: quantized, unquantized, and tied to one of these."""
        return (*self._layout.entries, *self._layout.tied)

    @property
    def source_bits(self) -> int:
        """Bits of all restored tensors, tied ones once."""
        return 8 * self._layout.restored

    @property
    def compression_ratio(self) -> float:
        """Bits of all restored tensors over those of the file."""
        return self._layout.restored / self.size

    def entry(self, name: str) -> QuantizedEntry | RawEntry:
        """Look up the header entry of a tensor; for a tied name, of the tensor it is tied to.

        Raises:
            ValueError: No tensor of that name.
        """
        found = self._layout.entries.get(self._layout.tied.get(name, name))
        if found is None:
            near = get_close_matches(str(name), self.names, n=3) or self.names[:3]
            raise ValueError(
                f"the name of one of the {len(self.names)} tensors is required, but {name!r} came: the nearest are "
                f"{listed(near)}."
            )
        return found

    def tensor(self, name: str) -> Tensor:
        """Decode one tensor; only it and its codes are read.

        Raises:
            ValueError: No tensor of that name.
            CorruptFileError: Content that does not decode, or was changed after opening.
        """
        entry = self.entry(name)
        if isinstance(entry, RawEntry):
            whole, begin = torch.empty(entry.size, dtype=torch.uint8), 0  # as bytes: a bool may be other than 0 and 1
            for piece in self._chunks(entry):
                part = piece.view(torch.uint8)
                whole[begin : begin + len(part)] = part
                begin += len(part)
            return whole.view(DTYPES[entry.dtype]).reshape(entry.shape)
        if self._book(entry.codebook).levels is not None:
            return self._indexed(entry).dequantize()
        out, dtype = np.empty(prod(entry.shape), f"i{entry_bytes(entry.dtype)}"), DTYPES[entry.dtype]
        for _ in self._decoded(entry, self._book(entry.codebook).bits_of(dtype), 0, out):
            pass
        return torch.from_numpy(out).view(dtype).reshape(entry.shape)

    def chunks(self, name: str) -> Iterator[Tensor]:
        """Decode one tensor in flattened pieces of at most 2²² entries, in bounded memory.

        The section's checksum is verified after the last piece.

        Raises:
            ValueError, CorruptFileError: As :meth:`tensor`.
        """
        return self._chunks(self.entry(name))

    def state_dict(self, progress: Progress = True) -> dict[str, Tensor]:
        """Decode all tensors by name; tied names share one.

        Raises:
            CorruptFileError: As :meth:`tensor`.
            Cancelled: By ``progress``.
        """
        state = {name: self.tensor(name) for name in track(list(self._layout.entries), "restore", progress)}
        return state | {name: state[target] for name, target in self._layout.tied.items()}

    def apply(self, model: nn.Module) -> nn.Module:
        """Copy the model with all its tensors from the file; the original is unchanged.

        Raises:
            ValueError: A model with other names, shapes or types.
            CorruptFileError: As :meth:`tensor`.
        """
        present = model.state_dict(keep_vars=True)
        _require_fitting(self, present)
        state = self.state_dict(progress=False)
        first: dict[int, str] = {}
        for name, value in present.items():
            other = first.setdefault(id(value), name)
            if not _same(state[name], state[other]):
                raise ValueError(
                    f"{other!r} and {name!r} are one tensor in the model, but must be two, as they are in "
                    f"{self.path.name!r}: untie them."
                )
        restored = duplicate(model)
        restored.load_state_dict(state, strict=True)
        return restored

    def quantized(self) -> Quantized:
        """Restore the quantized selection, to be fine-tuned, parametrized, or saved again to the same bytes.

        Raises:
            CorruptFileError: As :meth:`tensor`, or an unknown recipe.
        """
        layout = self._layout
        if not layout.quantized:
            raise CorruptFileError("header", "a quantized tensor is required, but there is none: use state_dict().")
        quantizer, finetuned = quantizer_of(layout.recipe), finetuned_of(layout.recipe)
        code = codes.named(quantizer.coding)
        self._require_groups(code)
        counts = [np.zeros(book.levels, np.int64) for book in layout.codebooks]
        tensors = {}
        for entry in layout.quantized:
            tensors[entry.name] = self._indexed(entry, counts[entry.codebook])
        codebooks = {}
        for i, stored in enumerate(layout.codebooks):
            book = self._book(i)
            length = book.lengths() if code.known_from_counts else torch.from_numpy(ideal_lengths(counts[i]))
            codebooks[stored.name] = Codebook(
                book.value.clone(), torch.from_numpy(counts[i]), length, book.lattice, book.levels
            )
        quantized_bytes = sum(prod(entry.shape) * entry_bytes(entry.dtype) for entry in layout.quantized)
        return Quantized(
            quantizer=quantizer,
            tensors=tensors,
            codebooks=codebooks,
            ledger=layout.quantized_ledger,
            distortion=distortion_of(layout.recipe),
            source_bits=8 * quantized_bytes,
            unselected_bits=8 * (layout.restored - quantized_bytes),
            record=record_of(layout.recipe),
            finetuned=finetuned,
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per name: where it belongs, how it is stored, and how many bytes it takes; see :func:`frame_of`."""
        return frame_of(self._layout, {name: self.entry(name) for name in self.names})

    def __repr__(self) -> str:
        layout = self._layout
        return (
            f"Stored({self.path.name!r}, {self.size:,} bytes, {len(layout.quantized)} tensors quantized, "
            f"{len(layout.raw)} unquantized, {len(layout.tied)} tied, {self.compression_ratio:.4g}×)"
        )

    def _chunks(self, entry: QuantizedEntry | RawEntry) -> Iterator[Tensor]:
        if isinstance(entry, QuantizedEntry):
            if self._book(entry.codebook).levels is not None:
                yield from self._indexed(entry).dequantize().reshape(-1).split(positions.BLOCK_ENTRIES)
                return
            dtype = DTYPES[entry.dtype]
            for block in self._decoded(entry, self._book(entry.codebook).bits_of(dtype), 0, None):
                yield torch.from_numpy(block).view(dtype)
            return
        with reading(self.path, self._layout.section(entry)) as reader:
            step = positions.BLOCK_ENTRIES * entry_bytes(entry.dtype)
            for begin in range(0, entry.size, step):
                yield of_bytes(reader.take(min(step, entry.size - begin)), entry.dtype)
            reader.end()

    def _decoded(
        self,
        entry: QuantizedEntry,
        values: Shaped[np.ndarray, " k"],
        pruned: int,
        out: Shaped[np.ndarray, " n"] | None,
        parts: list[bytes] | None = None,
    ) -> Iterator[Shaped[np.ndarray, " b"]]:
        """The blocks of a tensor, decoded into their places in ``out`` if given; scales are added to ``parts``."""
        book = self._book(entry.codebook)
        section = self._layout.section(entry)
        adaptive = self._layout.adaptive
        gap_code = None if adaptive else read_gap_code(self.path, self._layout, entry.table)
        matrices = block_shapes(entry.shape) if adaptive else []
        with damage_of(section.label):
            alphabet = alphabet_of(book.value, book.lattice, self._layout.pruned) if adaptive else None
        kind = codes.stored_as(self._layout.coding)[0]

        def decoded(data: bytes, block: StoredBlock, begin: int, i: int) -> Shaped[np.ndarray, " b"]:
            room = np.empty(block.entries, values.dtype) if out is None else out[begin : begin + block.entries]
            if alphabet is not None:
                decode_matrix(data, block, alphabet, kind, matrices[i], values, pruned, room)
            else:
                decode_block(data, block, book.code, gap_code, values, pruned, room)
            return room

        def items() -> Generator[tuple[bytes, StoredBlock, int, int], None, None]:
            begin = 0
            with reading(self.path, section) as reader:
                for i, block in enumerate(entry.blocks):
                    yield reader.take(block.size), block, begin, i
                    begin += block.entries
                if parts is not None:
                    parts.extend(reader.take(part.size) for part in entry.parts)
                reader.end()

        # A generator left to the garbage collector would close its file at any time, in any thread.
        with damage_of(section.label), closing(items()) as tasks:
            yield from dispatch.in_order(decoded, tasks)

    def _indexed(self, entry: QuantizedEntry, counts: Int64[np.ndarray, " k"] | None = None) -> QuantizedTensor:
        """A tensor as indices into its codebook, with its scales in a block format; ``counts`` adds up the indices."""
        book, dtype = self._book(entry.codebook), DTYPES[entry.dtype]
        levels = len(book.value)
        kind = index_dtype(levels)
        out = np.empty(prod(entry.shape), f"i{kind.itemsize}")
        parts: list[bytes] = []
        for block in self._decoded(entry, np.arange(levels, dtype=out.dtype), PRUNED, out, parts):
            if levels and counts is not None:
                counts += symbol_counts(block[block >= 0], levels)
        scaling, value = None, book.value
        if book.levels is None:
            value = value.to(dtype)
        else:
            with damage_of(self._layout.section(entry).label):
                read = tuple(map(decode_part, parts, entry.parts))
            scaling = Scaling(book.levels.format, book.levels.codes, read, dtype)
        code = codes.stored_as(self._layout.coding)[0]
        streams = None if code.known_from_counts else tuple(b.payload // 8 for b in entry.blocks)
        return QuantizedTensor(value, torch.from_numpy(out), torch.Size(entry.shape), streams, scaling)

    def _book(self, index: int) -> Book:
        if index not in self._read:
            self._read[index] = read_book(self.path, self._layout, index)
        return self._read[index]

    def _require_groups(self, code: Code) -> None:
        """Check the names and codes on which a quantized selection relies."""
        books = self._layout.codebooks
        if code.stored != self._layout.coding or any(book.code(self._layout.coding) is not code for book in books):
            raise CorruptFileError(
                "recipe", f"codes must be {code.name}, as it says, but are not: write the file again."
            )
        for entry in self._layout.quantized if len(books) > 1 else ():
            if books[entry.codebook].name != owner(entry.name):
                raise CorruptFileError(
                    "header",
                    f"the codebook of {entry.name!r} must be that of its layer {owner(entry.name)!r}, but is "
                    f"{books[entry.codebook].name!r}: use state_dict().",
                )


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and bytes(as_bytes(a.reshape(-1))) == bytes(as_bytes(b.reshape(-1))))


def _require_fitting(stored: Stored, present: Mapping[str, Any]) -> None:
    names = set(stored.names)
    missing = [name for name in stored.names if name not in present]
    extra = [name for name in present if name not in names]
    if missing or extra:
        which = f"lacks {listed(missing, 3)}" if missing else f"has {listed(extra, 3)} besides"
        raise ValueError(
            f"the model must have the {len(stored.names)} tensors of {stored.path.name!r}, but {which}: build it as "
            "the one that was saved."
        )
    for name in stored.names:
        entry, value = stored.entry(name), present[name]
        required = entry.shape, DTYPES[entry.dtype]
        if not isinstance(value, Tensor) or (tuple(value.shape), value.dtype) != required:
            came = f"{tuple(value.shape)} and {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"{name!r} must have shape {required[0]} and type {required[1]}, but the model has {came}: build "
                "it as the one that was saved."
            )
