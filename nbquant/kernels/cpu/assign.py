"""Assignment of weights to codewords with the sums of the clusters, and reconstruction from indices.

No weight is compared with every codeword. A table on the float's leading bits gives the candidates of
a bin: mostly one, or few where a boundary cuts the bin, which are then compared. Entries are computed when the
first weight falls into them; two threads that do so at once write the same number.

An entry is one more than: a position in the list of codewords that win anywhere, with the number of further
positions above it. If there are none, the codeword's index replaces its position. Zero is not yet computed.

One module, as all loops share this table and its entries.
"""

from collections.abc import Callable
from functools import cache

import numpy as np

from nbquant.kernels.compiled import compiled
from nbquant.kernels.cpu.envelope import envelope
from nbquant.kernels.keys import ZERO_KEY

Array = np.ndarray
Kernel = Callable[[Array, Array, Array, Array, Array, Array], None]

SPAN_SHIFT = 21
MOST_LEVELS = 1 << SPAN_SHIFT
MANY = (1 << 9) - 1  # more candidates than an entry can hold
FEW = 8  # candidates that are compared one by one

BIN_SHIFT = 14  # bits dropped where one h stands for all: 512 bins per octave, few of them cut by boundaries
ZERO_BINS = (0, 1 << (31 - BIN_SHIFT))  # of either sign
CELL_SHIFT = 16  # the same in cells
OCTAVE = 128
OCTAVES = 24  # of |w| below twice the largest codeword; smaller weights share the centre bin
WIDTH = OCTAVES * OCTAVE  # bins of one sign
ROW_CELLS = 2 * (WIDTH + 1)
ROW_SHIFT = 22
ROWS = 512  # half-octaves of h
HUGE_ROW = 509  # from here on, the end of a row is not finite in float32
SKIPPED = ROWS * ROW_CELLS  # the cell of weights that are left out
INSENSITIVE = SKIPPED + 1  # the cell of h = 0
CELLS = INSENSITIVE + 1

FEW_LEVELS = 128  # codewords; their boundaries are far apart
BLOCK = 1 << 12  # weights processed together in each step


@cache
def bin_edges(shift: int) -> Array:
    """Compute the least and largest float32 of each bin, and a step further each: a float64 may round to them."""
    first = np.arange(1 << (32 - shift), dtype=np.uint32) << shift
    low, high = first.view(np.float32), (first | ((1 << shift) - 1)).view(np.float32)
    below, above = np.minimum(low, high), np.maximum(low, high)
    with np.errstate(over="ignore", invalid="ignore"):  # infinity follows the largest float32
        edges = np.stack([np.nextafter(below, np.float32(-np.inf)), np.nextafter(above, np.float32(np.inf))], axis=1)
    return edges.astype(np.float64)


@compiled(inline=True)
def _position(threshold: Array, w: float, low: int, high: int) -> int:
    """Position whose interval holds w; a threshold belongs to the lower one."""
    while low < high:
        half = (low + high) >> 1
        if w <= threshold[half]:
            high = half
        else:
            low = half + 1
    return low


@compiled(inline=True)
def _entry(kept: Array, low: int, high: int) -> int:
    if low == high:
        return 1 + kept[low]
    return 1 + (min(high - low, MANY) << SPAN_SHIFT | low)


@compiled(inline=True)
def _cheapest(w: float, half_h: float, codebook: Array, price: Array, kept: Array, low: int, high: int) -> int:
    best, least = kept[low], np.inf
    for d in range(low, high + 1):
        error = w - codebook[kept[d]]
        cost = half_h * error * error + price[kept[d]]
        if cost < least:
            best, least = kept[d], cost
    return best


@compiled()
def _cheapest_outwards(
    w: float, half_h: float, codebook: Array, price: Array, least_price: float, kept: Array, low: int, high: int
) -> int:
    """Search from the nearest codeword outwards, until distance alone costs more than the best."""
    left, right = low, high + 1
    while left < right:
        half = (left + right) >> 1
        if codebook[kept[half]] < w:
            left = half + 1
        else:
            right = half
    best, least = int(kept[low]), np.inf
    for step in (1, -1):
        d = right if step == 1 else right - 1
        while low <= d <= high:
            error = w - codebook[kept[d]]
            loss = half_h * error * error
            if loss + least_price > least:
                break
            cost = loss + price[kept[d]]
            if cost < least or (cost == least and kept[d] < best):
                best, least = int(kept[d]), cost
            d += step
    return best


@compiled()
def _entry_of_bin(index: int, kept: Array, threshold: Array, edge: Array, table: Array) -> int:
    """Entry of a bin, computed if necessary."""
    entry = int(table[index])
    if entry == 0:
        last = len(kept) - 1
        low = _position(threshold, edge[index, 0], 0, last)
        entry = _entry(kept, low, _position(threshold, edge[index, 1], low, last))
        table[index] = entry
    return entry


@compiled()
def _in_bin(
    index: int,
    w: float,
    half_h: float,
    codebook: Array,
    price: Array,
    kept: Array,
    threshold: Array,
    edge: Array,
    table: Array,
) -> int:
    """The codeword of a weight whose bin has no entry yet, or several candidates."""
    last = len(kept) - 1
    entry = _entry_of_bin(index, kept, threshold, edge, table)
    span, low = (entry - 1) >> SPAN_SHIFT, (entry - 1) & (MOST_LEVELS - 1)
    if span == 0 and low < len(codebook):
        return low
    if 0 < span <= FEW:
        return _cheapest(w, half_h, codebook, price, kept, low, low + span)
    # Thresholds are rounded: beside one, costs decide.
    at = _position(threshold, w, 0, last)
    return _cheapest(w, half_h, codebook, price, kept, max(at - 1, 0), min(at + 1, last))


@compiled()
def assign_by_bin(
    weight: Array,
    bits: Array,
    sensitivity: Array,
    half_h: float,
    codebook: Array,
    price: Array,
    kept: Array,
    threshold: Array,
    edge: Array,
    table: Array,
    skip_zeros: bool,
    all_sums: bool,
    out: Array,
    sums: Array,
) -> None:
    """See :func:`nbquant.kernels.reference.assign`, with one h for all choices.

    Args:
        weight: Weights w.
        bits: Their float32 bit patterns.
        sensitivity: Sensitivities h for the sums.
        half_h: ½h for the choice.
        codebook: Codewords c, ascending.
        price: Rate cost of each codeword [loss].
        kept: Codewords on the lower envelope.
        threshold: Boundaries between them.
        edge: From :func:`bin_edges`.
        table: Entries of the bins, zero where not yet computed. Entry k means none: for skipped zeros.
        skip_zeros: As in the reference.
        all_sums: Whether to sum all weights, or only those in bins with several candidates.
        out: Output: the assignment.
        sums: Incremented by the clusters' sums, and in a last row by those of skipped zeros.
    """
    k = len(codebook)
    n = len(weight)
    one = np.int32(1)
    code, open_ = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.int32)
    for start in range(0, n, BLOCK):
        size = min(BLOCK, n - start)
        w, pattern = weight[start : start + size], bits[start : start + size]
        many = np.uint64(0)
        for i in range(size):
            found = table[np.uint64(pattern[i]) >> np.uint64(BIN_SHIFT)] - one
            code[i] = found
            if np.uint32(found) >= np.uint32(MOST_LEVELS):  # rare: bins are narrow
                open_[many] = i
                many += np.uint64(1)
        if skip_zeros:
            for i in range(size):
                if code[i] == k and w[i] != 0:
                    open_[many] = i
                    many += np.uint64(1)
        for m in range(many):
            i = open_[m]
            index = int(np.int64(pattern[i])) >> BIN_SHIFT
            code[i] = _in_bin(index, np.float64(w[i]), half_h, codebook, price, kept, threshold, edge, table)
        if all_sums:
            _add_up(w, sensitivity[start : start + size], code, out[start : start + size], sums)
            continue
        _write(code, k, out[start : start + size])
        for m in range(many):
            i = open_[m]
            _add(sums[np.uint64(code[i])], np.float64(w[i]), np.float64(sensitivity[start + i]))


@compiled(inline=True)
def _add(row: Array, w: float, h: float) -> None:
    hw = h * w
    row[0] += 1.0
    row[1] += w
    row[2] += h
    row[3] += hw
    row[4] += hw * w


@compiled()
def _write(code: Array, k: int, out: Array) -> None:
    for i in range(len(out)):
        out[i] = -1 if code[i] == k else code[i]


@compiled()
def _add_up(weight: Array, sensitivity: Array, code: Array, out: Array, sums: Array) -> None:
    """Write the assignment of a block, and add its sums; the last row is for skipped zeros."""
    _write(code, len(sums) - 1, out)
    for i in range(len(weight)):
        _add(sums[np.uint64(code[i])], np.float64(weight[i]), np.float64(sensitivity[i]))


@compiled()
def _open_row(
    row: int, codebook: Array, price: Array, row_kept: Array, row_threshold: Array, row_levels: Array
) -> None:
    """The codewords that win somewhere in a row: those at its upper edge."""
    u = 0.0 if row >= HUGE_ROW else 1 / _row_edge(row + 1)
    row_kept[row] = np.arange(len(codebook))
    row_levels[row] = envelope(u, codebook, price, row_kept[row], len(codebook), row_threshold[row])


@compiled()
def _row_edge(row: int) -> float:
    """Least h of a row."""
    if row < 2:
        return row * 2.0**-127
    return (1.0 + 0.5 * (row & 1)) * 2.0 ** ((row >> 1) - 127)


@compiled()
def _beats(
    i: int, j: int, w_low: float, w_high: float, u_low: float, u_high: float, codebook: Array, price: Array
) -> bool:
    """Whether codeword i costs less than j at all four corners of a cell, and so in all of it.

    Over h, the difference of their costs is bilinear in w and u = 1/h.
    """
    gap, middle = codebook[i] - codebook[j], codebook[i] + codebook[j]
    dearer = 2 * (price[j] - price[i])
    far = max(u_low * -dearer, u_high * -dearer)
    return gap * (2 * w_low - middle) > far and gap * (2 * w_high - middle) > far


@compiled()
def _settle(
    row: int,
    place: int,
    first: int,
    coarse: int,
    codebook: Array,
    price: Array,
    least_price: float,
    kept: Array,
    threshold: Array,
    edge: Array,
) -> int:
    """Compute the entry of a cell.

    The first candidates are the winners at the cell's edges of w at its largest h. Positions further out are candidates
    unless one of the two beats them in all of the cell.
    """
    last = len(kept) - 1
    if row == 0 or row >= HUGE_ROW:
        return 1 + (MANY << SPAN_SHIFT) if last else _entry(kept, 0, 0)
    bin_, negative = place >> 1, place & 1
    if bin_ == 0:
        w_high = edge[((first + 1) << coarse) - 1, 1]
        w_low = -w_high
    else:
        inner = ((first + bin_) << coarse) | (negative << 15)
        outer = inner + (1 << coarse) - 1
        w_low, w_high = min(edge[inner, 0], edge[outer, 0]), max(edge[inner, 1], edge[outer, 1])
        if bin_ == WIDTH >> coarse:
            w_low, w_high = (-np.inf, w_high) if negative else (w_low, np.inf)
    # Slightly wider than the row, so that no weight lies on an edge, where costs may be equal.
    u_low, u_high = (1 - 1e-6) / _row_edge(row + 1), (1 + 1e-6) / _row_edge(row)
    low = _position(threshold, w_low, 0, last)
    high = _position(threshold, w_high, low, last)
    a, b = kept[low], kept[high]
    # The most that distance has to compensate; further codewords are further still.
    reach_a, reach_b = 2 * u_high * (price[a] - least_price), 2 * u_high * (price[b] - least_price)
    for d in range(low - 1, -1, -1):
        j = kept[d]
        if (codebook[a] - codebook[j]) * (2 * w_low - codebook[a] - codebook[j]) > reach_a:
            break
        if not (
            _beats(a, j, w_low, w_high, u_low, u_high, codebook, price)
            or _beats(b, j, w_low, w_high, u_low, u_high, codebook, price)
        ):
            low = d
    for d in range(high + 1, last + 1):
        j = kept[d]
        if (codebook[b] - codebook[j]) * (2 * w_high - codebook[b] - codebook[j]) > reach_b:
            break
        if not (
            _beats(a, j, w_low, w_high, u_low, u_high, codebook, price)
            or _beats(b, j, w_low, w_high, u_low, u_high, codebook, price)
        ):
            high = d
    return _entry(kept, low, high)


@compiled()
def _in_cell(
    cell: int,
    first: int,
    coarse: int,
    w: float,
    h: float,
    codebook: Array,
    price: Array,
    least_price: float,
    row_kept: Array,
    row_threshold: Array,
    row_levels: Array,
    edge: Array,
    table: Array,
) -> int:
    """The codeword of a weight whose cell has no entry yet, or several candidates."""
    row, place = cell // ROW_CELLS, cell % ROW_CELLS
    if row_levels[row] == 0:
        _open_row(row, codebook, price, row_kept, row_threshold, row_levels)
    levels = row_levels[row]
    kept = row_kept[row, :levels]
    entry = int(table[cell])
    if entry == 0:
        entry = _settle(row, place, first, coarse, codebook, price, least_price, kept, row_threshold[row], edge)
        table[cell] = entry
    span, low = (entry - 1) >> SPAN_SHIFT, (entry - 1) & (MOST_LEVELS - 1)
    if span == 0:
        return low
    if span <= FEW:
        return _cheapest(w, 0.5 * h, codebook, price, kept, low, low + span)
    high = levels - 1 if span == MANY else low + span
    return _cheapest_outwards(w, 0.5 * h, codebook, price, least_price, kept, low, high)


@compiled()
def assign_by_cell(
    weight: Array,
    bits: Array,
    sensitivity: Array,
    sensitivity_bits: Array,
    codebook: Array,
    price: Array,
    row_kept: Array,
    row_threshold: Array,
    row_levels: Array,
    edge: Array,
    table: Array,
    first: int,
    coarse: int,
    skip_zeros: bool,
    out: Array,
    sums: Array,
) -> None:
    """See :func:`nbquant.kernels.reference.assign`, with λ > 0.

    Args:
        weight: Weights w.
        bits: Their float32 bit patterns.
        sensitivity: Sensitivities h.
        sensitivity_bits: Their float32 bit patterns.
        codebook: Codewords c, ascending.
        price: Rate cost λ ℓ_j of each codeword [loss].
        row_kept: Workspace for the codewords that win in each row of h.
        row_threshold: Workspace for the thresholds between them.
        row_levels: Their number; zero where not yet computed.
        edge: From :func:`bin_edges`.
        table: Entries of the cells, zero where not yet computed.
        first: Upper half-word of the centre bin, without its last ``coarse`` bits.
        coarse: Number of times 128 bins per octave are halved.
        skip_zeros: As in the reference.
        out: Output: the assignment.
        sums: Incremented by the clusters' sums, and in a last row by those of skipped zeros.
    """
    k = len(codebook)
    n = len(weight)
    least_price = price.min()
    one, width, shift = np.int32(1), np.int32(WIDTH >> coarse), np.uint32(16 + coarse)
    table[SKIPPED] = 1 + k
    table[INSENSITIVE] = 1 + np.argmin(price)
    cell, code, open_ = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.int32), np.empty(BLOCK, np.int32)
    for start in range(0, n, BLOCK):
        size = min(BLOCK, n - start)
        w, pattern = weight[start : start + size], bits[start : start + size]
        h, h_pattern = sensitivity[start : start + size], sensitivity_bits[start : start + size]
        for i in range(size):
            magnitude = np.int32((pattern[i] & 0x7FFFFFFF) >> shift)
            away = min(max(magnitude - np.int32(first), np.int32(0)), width)
            row = np.int32((h_pattern[i] & 0x7FFFFFFF) >> ROW_SHIFT)
            place = (
                row * np.int32(ROW_CELLS)
                + np.int32(2) * away
                + (np.int32(pattern[i] >> 31) if away > 0 else np.int32(0))
            )
            place = np.int32(INSENSITIVE) if h[i] == 0 else place
            cell[i] = np.int32(SKIPPED) if skip_zeros and w[i] == 0 else place
        many = np.uint64(0)
        for i in range(size):
            code[i] = table[np.uint64(cell[i])] - one
            open_[many] = i
            many += np.uint64(np.uint32(code[i]) >= np.uint32(MOST_LEVELS))
        for m in range(many):
            i = open_[m]
            code[i] = _in_cell(
                int(cell[i]), first, coarse, np.float64(w[i]), np.float64(h[i]), codebook, price, least_price,
                row_kept, row_threshold, row_levels, edge, table,
            )  # fmt: skip
        _add_up(w, h, code, out[start : start + size], sums)


@compiled()
def assign_grid(
    weight: Array,
    sensitivity: Array,
    step: float,
    offset: float,
    first: int,
    skip_zeros: bool,
    out: Array,
    sums: Array,
) -> None:
    """See :func:`nbquant.kernels.reference.assign_grid`; ``sums`` is incremented."""
    k = len(sums) - 1
    n = len(weight)
    code = np.empty(BLOCK, np.int32)
    for start in range(0, n, BLOCK):
        size = min(BLOCK, n - start)
        w = weight[start : start + size]
        for i in range(size):
            index = np.rint(np.float64(w[i]) / step - offset) - first
            # A weight that is off the grid or NaN must not be counted outside the sums.
            code[i] = np.int32(index) if 0 <= index < k and not (skip_zeros and w[i] == 0) else np.int32(k)
        _add_up(w, sensitivity[start : start + size], code, out[start : start + size], sums)


@compiled()
def gather(values: Array, assignment: Array, out: Array) -> None:
    """Look up out[i] = values[assignment[i] + 1]; the first value is for −1."""
    for i in range(len(assignment)):
        out[i] = values[np.uint64(np.int64(assignment[i]) + 1)]


def by_bin(codebook: Array, price: Array, half_h: float, skip_zeros: bool, whole: Array | None = None) -> Kernel:
    """Make a kernel (w, bits, h, bits of h, out, sums) of :func:`assign_by_bin` with its own tables.

    With a table from :func:`whole_bins`, only the other weights are summed.
    """
    kept, threshold = _boundaries(codebook, price, half_h)
    table = _empty_table(len(codebook), skip_zeros) if whole is None else whole

    def kernel(w: Array, bits: Array, h: Array, _: Array, out: Array, sums: Array) -> None:
        edge = bin_edges(BIN_SHIFT)
        assign_by_bin(
            w, bits, h, half_h, codebook, price, kept, threshold, edge, table, skip_zeros, whole is None, out, sums
        )

    return kernel


def _boundaries(codebook: Array, price: Array, half_h: float) -> tuple[Array, Array]:
    """Codewords that are cheapest somewhere, and the thresholds between them."""
    kept, threshold = np.arange(len(codebook), dtype=np.int32), np.empty(len(codebook))
    if half_h > 0:
        return kept[: envelope(0.5 / half_h, codebook, price, kept, len(kept), threshold)], threshold
    return np.array([price.argmin()], np.int32), threshold


def _empty_table(levels: int, skip_zeros: bool) -> Array:
    table = np.zeros(1 << (32 - BIN_SHIFT), np.int32)
    if skip_zeros:
        table[list(ZERO_BINS)] = 1 + levels
    return table


def whole_bins(codebook: Array, skip_zeros: bool, key: Array, bins: Array) -> tuple[Array, Array]:
    """Take the nearest codeword's cluster sums from a histogram, as far as its bins lie wholly within a cluster.

    Args:
        codebook: Codewords c, ascending.
        skip_zeros: As in the reference.
        key: Keys of bins of w, see :func:`nbquant.kernels.reference.weight_key`; no wider than the table's.
        bins: n, Σh, Σhw, Σhw² of the bins.

    Returns:
        The table for :func:`by_bin`, and n, Σw, Σh, Σhw, Σhw² of the weights in bins that lie wholly within a cluster;
        Σw holds for bins with constant h.
    """
    kept, threshold = _boundaries(codebook, np.zeros(len(codebook)), 1.0)
    table = _empty_table(len(codebook), skip_zeros)
    relative = key - ZERO_KEY
    bits = np.where(relative > 0, relative - 1, np.where(relative == 0, 0, (relative ^ 0x7FFFFFFF) & 0xFFFFFFFF))
    index = bits >> BIN_SHIFT
    code = _codes_of_bins(np.concatenate([index, ZERO_BINS]), codebook, kept, threshold, bin_edges(BIN_SHIFT), table)
    code, at_zero = code[: len(key)], code[len(key) :]
    beside_zero = np.isin(index, ZERO_BINS)
    if skip_zeros or at_zero[0] != at_zero[1]:
        # Zeros of either sign have different bins but one key: look at each weight.
        code = np.where(beside_zero, -1, code)
        if not skip_zeros:
            table[list(ZERO_BINS)] = 1 + (min(len(kept) - 1, MANY) << SPAN_SHIFT)
    n, h, hw, hww = bins[code >= 0].T
    code = code[code >= 0]
    columns = (n, n * hw / h, h, hw, hww)
    return table, np.stack([np.bincount(code, column, len(codebook)) for column in columns], axis=1)


@compiled()
def _codes_of_bins(index: Array, codebook: Array, kept: Array, threshold: Array, edge: Array, table: Array) -> Array:
    """The codeword of all weights in a bin, or −1 where there may be several; fills the table."""
    code = np.empty(len(index), np.int64)
    for m in range(len(index)):
        entry = _entry_of_bin(index[m], kept, threshold, edge, table)
        one = (entry - 1) >> SPAN_SHIFT == 0 and entry - 1 < len(codebook)
        code[m] = entry - 1 if one else -1
    return code


def by_cell(codebook: Array, price: Array, skip_zeros: bool) -> Kernel:
    """Make a kernel of :func:`assign_by_cell` likewise."""
    row_kept, row_threshold = np.empty((ROWS, len(codebook)), np.int32), np.empty((ROWS, len(codebook)))
    row_levels, table = np.zeros(ROWS, np.int32), np.zeros(CELLS, np.int32)
    largest = np.abs(codebook).max().astype(np.float32).view(np.uint32) >> 16
    coarse = int(len(codebook) <= FEW_LEVELS)  # few bins are cut by a boundary, however wide they are
    first = max(int(largest) + OCTAVE - WIDTH, 0) >> coarse

    def kernel(w: Array, bits: Array, h: Array, h_bits: Array, out: Array, sums: Array) -> None:
        assign_by_cell(
            w, bits, h, h_bits, codebook, price, row_kept, row_threshold, row_levels,
            bin_edges(CELL_SHIFT), table, first, coarse, skip_zeros, out, sums,
        )  # fmt: skip

    return kernel


def by_grid(step: float, offset: float, first: int, cells: int, skip_zeros: bool) -> Kernel:
    """Make a kernel of :func:`assign_grid` likewise."""

    def kernel(w: Array, _: Array, h: Array, __: Array, out: Array, sums: Array) -> None:
        assign_grid(w, h, step, offset, first, skip_zeros, out, sums)

    return kernel
