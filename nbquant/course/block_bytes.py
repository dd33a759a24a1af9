"""Live picture: the bytes of a block, and the bits that make one of its weights."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from nbquant.course.live import Live, choice, slider
from nbquant.quantization.blocks.block_format import BlockFormat
from nbquant.quantization.blocks.formats import named
from nbquant.quantization.blocks.layout import Packed
from nbquant.views.notebook_figure import NotebookFigure
from nbquant.views.palette import BLUE, GREEN, ORANGE, PURPLE, VERMILION

FORMATS = ("nf4", "mxfp4_gguf", "nvfp4_gguf", "q4_k")
_ROW = 16  # bytes in a row of the picture
_COLOURS = {"codes": BLUE, "scale": GREEN, "minimum": PURPLE, "scales and minima of groups": ORANGE}
_NAMES = {"minimum_scale": "minimum"}


@dataclass(frozen=True)
class BlockBytesData:
    """A block in bytes.

    Attributes:
        title: The format.
        content: The bytes; a scale that is stored apart comes first.
        field: What each byte holds, a key of the picture's legend.
        used: Bits that make the weight, the highest bit of a byte first.
        index: Place of the weight in the block.
        length: Weights of the block.
        formula: How the value is computed.
        value: The weight as the package decodes it.
    """

    title: str
    content: UInt8[np.ndarray, " n"]
    field: tuple[str, ...]
    used: Bool[np.ndarray, "n 8"]
    index: int
    length: int
    formula: str
    value: float

    @property
    def summary(self) -> str:
        """Bits and value of the weight, in a sentence."""
        return (
            f"{self.title}: {len(self.content)} bytes for {self.length} weights, "
            f"{8 * len(self.content) / self.length:g} bits per weight. Weight {self.index} depends on "
            f"{int(self.used.sum())} of these bits: {self.formula} = {_signed(self.value)}."
        )


def block_bytes_data(weight: Float[np.ndarray, " n"], name: str, index: int) -> BlockBytesData:
    """Encode the first weights as a block, and find the bits that make one of them.

    Args:
        weight: Weights, 256 of them.
        name: One of :data:`FORMATS`.
        index: Place of the weight; beyond the block it is counted from its start again.
    """
    form = named(name)
    assert form.layout is not None
    block = np.ascontiguousarray(weight[None, : form.length], np.float32)
    codes = form.encode(block)
    raw = form.pack(codes)
    index %= form.length
    used = _used(form, raw, index)
    fields = ["codes"] * len(raw)
    for field in form.layout.fields:
        if isinstance(field, Packed):
            part, size = "scales and minima of groups", field.size
        else:
            part, size = _NAMES.get(field.part, field.part), field.count * np.dtype(field.dtype).itemsize
        fields[field.offset : field.offset + size] = [part] * size
    if not form.layout.fields:  # bitsandbytes stores scales in a tensor of their own
        apart = codes.part("scale").view(np.uint8)
        raw, fields = np.concatenate([apart, raw]), ["scale"] * len(apart) + fields
        used = np.concatenate([np.ones((len(apart), 8), bool), used])
    value = float(form.decode(codes)[0, index])
    parts = {part.name: part.values.reshape(-1) for part in codes.parts}
    formula = _formula(name, parts, int(codes.codes[0, index]), index, form)
    return BlockBytesData(form.title, raw, tuple(fields), used, index, form.length, formula, value)


def _used(form: BlockFormat, raw: UInt8[np.ndarray, " n"], index: int) -> Bool[np.ndarray, "n 8"]:
    """Flip each bit, and see whether the weight's code changes, or a part that belongs to it."""
    assert form.layout is not None
    flipped = np.repeat(raw[None], 8 * len(raw), axis=0)
    place = np.arange(8 * len(raw))
    flipped[place, place // 8] ^= (128 >> place % 8).astype(np.uint8)
    codes, parts = form.layout.unpack(np.concatenate([raw[None], flipped]), form.length)
    seen = [codes[:, index : index + 1]]
    for values in parts.values():
        table = np.ascontiguousarray(values.reshape(len(codes), -1))
        group = index * table.shape[1] // form.length
        seen.append(table.view(f"u{table.dtype.itemsize}")[:, group : group + 1])
    changed = np.stack([(each[1:] != each[0]).any(axis=1) for each in seen])
    return changed.any(axis=0).reshape(-1, 8)


def _formula(name: str, parts: dict[str, np.ndarray], code: int, index: int, form: BlockFormat) -> str:
    if name == "q4_k":
        group = index // 32
        scale, minimum = float(parts["scale"][0]), float(parts["minimum_scale"][0])
        return f"{scale:.6f} · {parts['sub_scale'][group]} · {code} − {minimum:.6f} · {parts['sub_minimum'][group]}"
    if name == "nf4":
        return f"{float(parts['scale'][0]):.5f} · level {code} ({_signed(form.levels[code])})"
    # The package's levels are doubled, as in GGUF, and its scales halved.
    level = f"{form.levels[code] / 2:g}".replace("-", "−")
    if name == "mxfp4_gguf":
        return f"2^({parts['scale'][0]} − 127) · ({level})"
    byte = int(parts["scale"][index // 16])
    return f"E4M3({byte}) · ({level})"


def _signed(value: float) -> str:
    return f"{value:.5f}".replace("-", "−")


def draw_block_bytes(data: BlockBytesData) -> Figure:
    """Draw the bytes in rows of 16, coloured by field, with the bits of one weight."""
    rows = -(-len(data.content) // _ROW)
    height = 1.25 + 0.42 * rows
    figure = NotebookFigure(figsize=(9.2, height), facecolor="white")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1 - 0.3 / height))  # a layout would measure all texts, which takes long
    for place, (byte, field) in enumerate(zip(data.content, data.field, strict=True)):
        x, y = place % _ROW, -(place // _ROW)
        colour = _COLOURS[field]
        axes.add_patch(Rectangle((x + 0.03, y), 0.94, 0.9, facecolor=colour, alpha=0.22, lw=0))
        for bit in range(8):
            left = x + 0.05 + 0.1125 * bit
            if data.used[place, bit]:
                axes.add_patch(Rectangle((left, y), 0.1125, 0.9, facecolor=VERMILION, alpha=0.45, lw=0))
        axes.text(x + 0.5, y + 0.22, f"{byte:08b}", ha="center", va="center", fontsize=7.1, family="monospace")
        axes.text(x + 0.5, y + 0.62, f"{byte:02x}", ha="center", va="center", fontsize=8.5, family="monospace")
    for row in range(rows):
        axes.text(-0.15, 0.45 - row, str(_ROW * row), ha="right", va="center", fontsize=8, color="#666666")
    left = 0.0
    for name in dict.fromkeys(data.field):
        axes.add_patch(Rectangle((left, 1.3), 0.35, 0.4, facecolor=_COLOURS[name], alpha=0.35, lw=0))
        axes.text(left + 0.45, 1.5, name, fontsize=9, va="center")
        left += 1.2 + 0.155 * len(name)
    axes.add_patch(Rectangle((left, 1.3), 0.35, 0.4, facecolor=VERMILION, alpha=0.5, lw=0))
    axes.text(left + 0.45, 1.5, f"bits of weight {data.index}", fontsize=9, va="center")
    title = f"{data.title}: weight {data.index} of {data.length} = {data.formula} = {_signed(data.value)}"
    axes.set_title(title, loc="left", x=0.01, fontsize=10, weight="bold")
    axes.set(xlim=(-0.9, _ROW + 0.1), ylim=(0.9 - rows, 1.9))
    axes.axis("off")
    return figure


def show(weight: Float[np.ndarray, " n"], name: str = "q4_k", index: int = 133) -> Live:
    """Show the bytes of a block, with a menu for the format and a slider for the weight.

    Args:
        weight: Weights, 256 of them.
        name: First format, one of :data:`FORMATS`.
        index: First weight, 0 to 255.
    """
    return Live(
        lambda name, index: block_bytes_data(weight, name, index),
        draw_block_bytes,
        {
            "name": choice("format", [(named(each).title, each) for each in FORMATS], name),
            "index": slider("weight", range(256), index),
        },
    )
