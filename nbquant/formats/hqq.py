"""HQQ's layout: integers in a grid whose rows or columns are groups, packed with those of rows far apart.

The weight in row-major order is the grid: with axis 1 each of its rows is a group, with axis 0 each column. The weight
is s (q − z), with a real z. Packed rows hold rows i, i + n, … of the grid, the first in the highest bits; those of 3
bits are words of ten integers. Weights are decoded in float32, while the library computes in the type of its layer.

Source: HQQ 0.2.8.post1.
"""

from nbquant.formats.packed_checkpoint import PackedCheckpoint, PackedLayout
from nbquant.formats.packed_tensor import PackedTensor
from nbquant.formats.real_offsets import ZERO, unsigned_format
from nbquant.formats.stacked_rows import StackedRows

CODES = "W_q"
SHIFTS = {
    1: tuple(range(7, -1, -1)),
    2: (6, 4, 2, 0),
    3: tuple(range(27, -1, -3)),
    4: (4, 0),
    **dict.fromkeys((5, 6, 7, 8), (0,)),
}
"""Lowest bit of the integers of each stack, by their bits."""
_NUMBERS = ("I32", "I64", "U8")


def find_hqq(checkpoint: PackedCheckpoint) -> list[str]:
    """List the tensors with codes in this layout."""
    return [name for name in checkpoint.files if name.rpartition(".")[2] == CODES]


def read_hqq(checkpoint: PackedCheckpoint, name: str) -> tuple[PackedTensor, tuple[str, ...]]:
    """Read the record of a weight.

    Raises:
        ValueError: A missing part, or one that does not fit.
    """
    layer = name.removesuffix(CODES)
    bits, axis = (_number(checkpoint, f"{layer}{part}") for part in ("nbits", "axis"))
    if bits not in SHIFTS:
        raise checkpoint.damaged(f"{layer}nbits", f"must be 1 to 8, but is {bits}")
    if axis not in (0, 1):
        raise checkpoint.damaged(f"{layer}axis", f"must be 0 or 1, but is {axis}")
    data = checkpoint.require(name, ("I32",) if bits == 3 else ("U8",))
    shape_name = f"{layer}shape"
    shape = tuple(int(n) for n in checkpoint.integers(shape_name, 2))
    scale, zero = (checkpoint.floats(f"{layer}{part}", (1, 2)) for part in ("scale", "zero"))
    if len(shape) != 2 or min(shape) < 1:
        raise checkpoint.damaged(shape_name, f"must be rows and columns, but is {shape}")
    rows, columns = shape
    groups, count = scale.size, rows * columns
    if count % groups or zero.size != groups:
        raise checkpoint.damaged(
            f"{layer}scale", f"has {groups} scales, and {zero.size} zero points, for {rows} × {columns} weights"
        )
    grid = (groups, count // groups) if axis == 1 else (count // groups, groups)
    shifts = SHIFTS[bits]
    if data.shape != (-(-grid[0] // len(shifts)), grid[1]):
        raise checkpoint.damaged(
            name, f"must be a packed grid of {grid[0]} × {grid[1]} integers of {bits} bits, but has shape {data.shape}"
        )
    stored = 32 / 10 if bits == 3 else 8 / len(shifts)
    found = unsigned_format(bits, ZERO, stored)
    parts = {"scale": scale.reshape(-1), ZERO: zero.reshape(-1)}
    stacked = StackedRows(found, (rows, columns), grid, data, shifts, parts, axis == 1)
    used = tuple(other for other in checkpoint.files if other.startswith(layer) and other[len(layer) :] in _PARTS)
    counted = (name, f"{layer}scale", f"{layer}zero")
    return stacked.tensor(name, checkpoint.bits(counted), (f"{layer}weight",)), used


_PARTS = frozenset(
    {
        *("W_q", "nbits", "group_size", "shape", "scale", "zero", "axis", "packing", "unpack_view_dtype"),
        *("view_as_float", "quant_scale", "quant_zero", "compute_dtype", "offload_meta", "encoded_state_dict"),
        *("stores_quant_config", "channel_wise", "optimize", "round_zero"),
    }
)


def _number(checkpoint: PackedCheckpoint, name: str) -> int:
    found = checkpoint.require(name, _NUMBERS, (0, 1))
    if found.size != 1:
        raise checkpoint.damaged(name, f"must be one number, but has the shape {found.shape}")
    return int(found.reshape(-1)[0])


HQQ = PackedLayout("HQQ", find_hqq, read_hqq)
