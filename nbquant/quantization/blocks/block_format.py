"""A block format: weights in blocks that share a scale, as other libraries store them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt8

from nbquant.kernels.cpu import block_codes as kernels
from nbquant.quantization.blocks.block_codes import BlockCodes, Part
from nbquant.quantization.blocks.checked import checked_input, require_finite
from nbquant.quantization.blocks.grid import NONE_1, Blocks
from nbquant.quantization.blocks.layout import Layout
from nbquant.quantization.blocks.scales import Scales

Encoded = tuple[UInt8[np.ndarray, "blocks length"], dict[str, np.ndarray]]
"""Codes, and parts as stored by name."""

ROW = -1  # as a length: one block for each row
TENSOR = -2  # one block for all weights


@dataclass(frozen=True)
class BlockFormat:
    """A block format with two encoders: the library's own, and a search for the best stored scales.

    Attributes:
        name: Name, as in :func:`nbquant.quantization.blocks.formats.named`.
        title: Name in tables and figures.
        library: Library that the plain encoder equals bit for bit, with the version it was checked against.
        length: Weights of a block; ``ROW`` or ``TENSOR`` where it is a whole row, or all weights.
        levels: Level of each code, before scaling.
        code_bits: Stored bits of a code.
        part_bits: Stored bits of each value of the parts, by name.
        plain: plain(blocks) encodes as the library does.
        search: search(blocks, sensitivity) encodes with the scales of least weighted error that it finds.
        scales: scales(parts) returns what codes are dequantized with.
        groups: Groups of a block, each with its own scale.
        across_rows: Whether blocks run on from one row into the next; else rows are padded.
        exact_zero: Whether every block can hold an exact zero.
        padding_code: Code that fills up incomplete blocks; None: what a weight of zero becomes.
        layout: Bytes of a block in the library's files; None if codes and parts are arrays of their own there.
        any_length: Whether the library lets the user choose the length of blocks.
    """

    name: str
    title: str
    library: str
    length: int
    levels: Float32[np.ndarray, " k"]
    code_bits: float
    part_bits: tuple[tuple[str, float], ...]
    plain: Callable[[Blocks], Encoded]
    search: Callable[[Blocks, Blocks | None], Encoded]
    scales: Callable[[Mapping[str, np.ndarray]], Scales]
    groups: int = 1
    across_rows: bool = False
    exact_zero: bool = True
    padding_code: int | None = None
    layout: Layout | None = None
    any_length: bool = False

    def __repr__(self) -> str:
        return f"BlockFormat({self.name!r})"

    def with_length(self, length: int) -> "BlockFormat":
        """Change the number of weights of a block.

        Args:
            length: Weights, or ``ROW`` or ``TENSOR``.

        Raises:
            ValueError: A format whose blocks have a fixed length, or no such length.
        """
        if not self.any_length:
            raise ValueError(f"{self.name} has blocks of {self.length} weights: leave the length out.")
        if length < 1 and length not in (ROW, TENSOR):
            raise ValueError(f"a block must have at least one weight, but got {length}.")
        layout = None
        if self.layout is not None:
            size = length * self.code_bits / 8
            if size < 1 or size % 1:
                raise ValueError(f"a block of {self.name} must fill whole bytes, but got a length of {length}.")
            layout = replace(self.layout, size=int(size))
        ends = {ROW: "channel", TENSOR: "tensor"}
        return replace(self, length=length, layout=layout, name=f"{self.name.split('/')[0]}/{ends.get(length, length)}")

    def encode(
        self,
        weight: Float[np.ndarray, "rows columns"],
        sensitivity: Float[np.ndarray, "rows columns"] | None = None,
        search: bool = False,
    ) -> BlockCodes:
        """Encode a matrix.

        Args:
            weight: Weights, one row per output channel; a vector is one row.
            sensitivity: Hessian diagonal h, for the search.
            search: Whether to search for the scales of least ½ Σ h (w − ŵ)², instead of rounding as the library does.

        Raises:
            ValueError: No weights, weights that are not finite, negative sensitivities or others than weights, or
                sensitivities without a search.
        """
        matrix, h = checked_input(weight, sensitivity, search)
        codes, parts = self._encoded(self._blocks(matrix), None if h is None else self._blocks(h), search)
        return self._codes(codes, parts, matrix.shape, fill=self.padding_code)

    def assemble(self, codes: UInt8[np.ndarray, "rows columns"], parts: Mapping[str, np.ndarray]) -> BlockCodes:
        """Put codes and parts together that were stored as arrays.

        Args:
            codes: Code of each weight, a byte each.
            parts: Stored values of each part by name, blocks in the order of the weights.

        Raises:
            ValueError: Codes that are not a matrix of bytes below the number of levels, or a missing part.
        """
        if codes.ndim != 2 or codes.dtype != np.uint8 or codes.size == 0 or int(codes.max()) >= len(self.levels):
            raise ValueError(
                f"codes of {self.name} must be a matrix of bytes below {len(self.levels)}, "
                f"but are {codes.dtype} of shape {codes.shape}" + (f", up to {codes.max()}." if codes.size else ".")
            )
        padding = np.full(self.padding_of(codes.shape), self.padding_code or 0, np.uint8)
        return self._named(codes, self._checked(parts, codes.shape), padding)

    def decode(self, codes: BlockCodes) -> Float32[np.ndarray, "rows columns"]:
        """Compute the weights that codes stand for, as the library does."""
        blocks = self._code_blocks(codes)
        out = np.empty(blocks.shape, np.float32)
        self._dequantize(blocks, self._scales_of({part.name: part.values for part in codes.parts}), out)
        return self._matrix(out, codes.shape)

    def pack(self, codes: BlockCodes) -> UInt8[np.ndarray, " bytes"]:
        """Pack codes into the bytes of the library's files.

        Raises:
            ValueError: A format without bytes of its own.
        """
        parts = {part.name: part.values for part in codes.parts}
        data = self._layout().pack(self._code_blocks(codes), parts).reshape(-1)
        return data[: self._bytes_of(codes.shape)]

    def encode_bytes(
        self,
        weight: Float[np.ndarray, "rows columns"],
        sensitivity: Float[np.ndarray, "rows columns"] | None = None,
        search: bool = False,
    ) -> UInt8[np.ndarray, " bytes"]:
        """Encode a matrix into the bytes of the library's files, a piece at a time; see :meth:`encode`.

        Raises:
            ValueError: As :meth:`encode`, or a format whose scales are not in these bytes.
        """
        layout = self._layout()
        if not layout.fields:
            raise ValueError(f"bytes of {self.name} hold no scales: use encode, then pack, and store its parts too.")
        matrix, h = checked_input(weight, sensitivity, search, finite=False)
        blocks, its_h = self._blocks(matrix), None if h is None else self._blocks(h)
        out = np.empty((len(blocks), layout.size), np.uint8)
        piece = max(1, _PIECE // blocks.shape[1])
        for start in range(0, len(blocks), piece):
            part = slice(start, start + piece)
            require_finite(blocks[part], "weights")  # here, as these are in the cache then
            codes, parts = self._encoded(blocks[part], None if its_h is None else its_h[part], search)
            layout.pack(codes, parts, out[part])
        return out.reshape(-1)

    def unpack(
        self, data: UInt8[np.ndarray, "..."], shape: tuple[int, int], parts: Mapping[str, np.ndarray] | None = None
    ) -> BlockCodes:
        """Unpack the bytes of the library's files.

        Args:
            data: Bytes of all blocks.
            shape: Rows and columns of the weights.
            parts: Parts that the library stores as arrays of their own, by name.

        Raises:
            ValueError: A format without bytes of its own, another number of bytes than the shape needs, or a missing
                part.
        """
        codes, own = self._layout().unpack(self._raw(data, shape), self.blocks_of(shape)[1])
        return self._codes(codes, self._checked(own | dict(parts or {}), shape), shape)

    def decode_bytes(
        self, data: UInt8[np.ndarray, "..."], shape: tuple[int, int], parts: Mapping[str, np.ndarray] | None = None
    ) -> Float32[np.ndarray, "rows columns"]:
        """Compute the weights that the bytes of the library's files stand for, a piece at a time.

        Args:
            data: See :meth:`unpack`.
            shape: See :meth:`unpack`.
            parts: See :meth:`unpack`.

        Raises:
            ValueError: As :meth:`unpack`.
        """
        layout, raw = self._layout(), self._raw(data, shape)
        count, length = self.blocks_of(shape)
        given = None if layout.fields else self._scales_of(self._checked(parts or {}, shape))
        out = np.empty((count, length), np.float32)
        if given is not None and self._pairs is not None:
            kernels.dequantize_pairs(raw, self._pairs, given.scale, out.view(np.int64), out)
            return self._matrix(out, shape)
        piece = max(1, _PIECE // length)
        for start in range(0, count, piece):
            codes, own = layout.unpack(raw[start : start + piece], length)
            groups = slice(start * self.groups, (start + piece) * self.groups)
            scales = self._scales_of(own) if given is None else given[groups]
            self._dequantize(codes, scales, out[start : start + piece])
        return self._matrix(out, shape)

    def blocks_of(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Count the blocks of a matrix, and the weights of each with padding."""
        rows, columns = shape
        if self.length == TENSOR:
            return 1, rows * columns
        if self.length == ROW:
            return rows, columns
        if self.across_rows:
            return -(-rows * columns // self.length), self.length
        return rows * -(-columns // self.length), self.length

    def padding_of(self, shape: tuple[int, int]) -> int:
        """Count the codes that are stored to fill up blocks, or only the last byte where blocks run across rows."""
        weights = shape[0] * shape[1]
        if self.across_rows:
            return int(-weights * self.code_bits % 8 // self.code_bits)
        count, length = self.blocks_of(shape)
        return count * length - weights

    def _encoded(self, blocks: Blocks, h: Blocks | None, search: bool) -> Encoded:
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # scales of tiny or huge weights
            return self.search(blocks, h) if search else self.plain(blocks)

    def _layout(self) -> Layout:
        if self.layout is None:
            raise ValueError(f"{self.name} has no bytes of its own: store codes and parts as arrays.")
        return self.layout

    def _bytes_of(self, shape: tuple[int, int]) -> int:
        if self.across_rows:
            return int((shape[0] * shape[1] + self.padding_of(shape)) * self.code_bits // 8)
        return self.blocks_of(shape)[0] * self._layout().size

    def _raw(self, data: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Bytes of whole blocks, blocks × size."""
        required, size = self._bytes_of(shape), self._layout().size
        if data.dtype != np.uint8 or data.size != required:
            raise ValueError(
                f"{shape[0]} × {shape[1]} weights in {self.name} are {required} bytes (uint8), "
                f"but got {data.size} of {data.dtype}."
            )
        raw = np.ascontiguousarray(data).reshape(-1)
        missing = self.blocks_of(shape)[0] * size - required
        return (np.concatenate([raw, np.zeros(missing, np.uint8)]) if missing else raw).reshape(-1, size)

    def _checked(self, parts: Mapping[str, np.ndarray], shape: tuple[int, int]) -> dict[str, np.ndarray]:
        """The parts of the format, each with values for all blocks."""
        count = self.blocks_of(shape)[0]
        found = {}
        for name, _ in self.part_bits:
            if name not in parts:
                raise ValueError(f"{self.name} has the part {name!r}, but only got {', '.join(parts) or 'none'}.")
            found[name] = parts[name]
        first = self.part_bits[0][0]
        if len(found[first]) != count:
            raise ValueError(
                f"{shape[0]} × {shape[1]} weights in {self.name} are {count} blocks, "
                f"but the part {first!r} has {len(found[first])}."
            )
        return found

    def _scales_of(self, parts: Mapping[str, np.ndarray]) -> Scales:
        with np.errstate(invalid="ignore", over="ignore"):  # scales in a file may be anything
            return self.scales(parts)

    def _dequantize(self, codes: np.ndarray, scales: Scales, out: np.ndarray) -> None:
        codes, out = (array.reshape(len(array) * self.groups, -1) for array in (codes, out))
        kernels.dequantize(codes, *self._levels, scales.scale, scales.zero, scales.minimum, out)

    @cached_property
    def _levels(self) -> tuple[Float32[np.ndarray, " k"], float, int]:
        """A table of levels, or none; the level of code 0, and the bits to invert, where levels follow one another."""
        if (np.diff(self.levels) == 1).all():
            return NONE_1, float(self.levels[0]), 0
        half = len(self.levels) // 2
        swapped = np.roll(self.levels, half)
        if half == 128 and (np.diff(swapped) == 1).all():
            return NONE_1, float(swapped[0]), half
        return self.levels, 0.0, 0

    @cached_property
    def _pairs(self) -> Int64[np.ndarray, "256"] | None:
        """Levels of both codes of each byte; None where a byte is not two neighbours that share a scale."""
        planes = () if self.layout is None else self.layout.planes
        if self.groups > 1 or "zero_point" in dict(self.part_bits) or len(planes) != 1:
            return None
        (plane,) = planes
        if abs(plane.bits) != 4 or plane.stride != 1:
            return None
        byte = np.arange(256)
        low, high = self.levels[byte & 15], self.levels[byte >> 4]
        both = (low, high) if plane.bits > 0 else (high, low)
        return np.ascontiguousarray(np.stack(both, axis=1)).view(np.int64)[:, 0]

    def _lines(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Rows that are cut into blocks one by one, and weights of each."""
        rows, columns = shape
        return (1, rows * columns) if self.across_rows or self.length == TENSOR else (rows, columns)

    def _blocks(self, matrix: Float32[np.ndarray, "rows columns"]) -> Blocks:
        count, length = self.blocks_of(matrix.shape)
        if count * length == matrix.size:
            return matrix.reshape(count, length)
        lines, weights = self._lines(matrix.shape)
        padded = np.zeros((lines, count // lines * length), np.float32)
        padded[:, :weights] = matrix.reshape(lines, weights)
        return padded.reshape(count, length)

    def _codes(
        self, codes: np.ndarray, parts: Mapping[str, np.ndarray], shape: tuple[int, int], fill: int | None = None
    ) -> BlockCodes:
        lines, weights = self._lines(shape)
        rows = codes.reshape(lines, -1)
        kept = np.ascontiguousarray(rows[:, :weights]).reshape(shape)
        padding = rows[:, weights:].reshape(-1)[: self.padding_of(shape)]
        return self._named(kept, parts, padding if fill is None else np.full_like(padding, fill))

    def _named(self, codes: np.ndarray, parts: Mapping[str, np.ndarray], padding: np.ndarray) -> BlockCodes:
        named = tuple(Part(name, parts[name], bits) for name, bits in self.part_bits)
        return BlockCodes(self.name, codes, named, padding, self.code_bits)

    def _code_blocks(self, codes: BlockCodes) -> np.ndarray:
        count, length = self.blocks_of(codes.shape)
        if count * length == codes.codes.size:
            return codes.codes.reshape(count, length)
        lines, weights = self._lines(codes.shape)
        rows = np.zeros((lines, count // lines * length), np.uint8)
        rows[:, :weights] = codes.codes.reshape(lines, weights)
        padding = codes.padding.reshape(lines, -1)
        rows[:, weights : weights + padding.shape[1]] = padding
        return rows.reshape(count, length)

    def _matrix(self, blocks: Blocks, shape: tuple[int, int]) -> Float32[np.ndarray, "rows columns"]:
        lines, weights = self._lines(shape)
        return np.ascontiguousarray(blocks.reshape(lines, -1)[:, :weights]).reshape(shape)


_PIECE = 1 << 18  # weights encoded or decoded at a time: their codes stay in the cache
