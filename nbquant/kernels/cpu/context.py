"""Kernel of the context code: one pass over a matrix of levels that encodes or decodes, and adapts.

All in integers, so that a file reads the same everywhere. Predictions are probabilities of a one.
"""

import decimal
import functools

import numpy as np
from jaxtyping import Int16, Int32, Int64, UInt8, UInt32

from nbquant.kernels.compiled import compiled
from nbquant.kernels.cpu.lanes import LANES, all_at_least, splat, divide, dot, equal, high_bits, least, load, look_up, put, store, take

UNARY = 15  # decisions "is it larger than 0, 1, 2 …" of a level; the rest is an Exp-Golomb code
MIXED = 7  # predictions of each decision
NEAR = 16  # classes of a weighted sum of neighbours
CLOSE = 27  # classes of three neighbours
MEANS = 16  # classes of the recent mean magnitude in a row or column
FRACTION = 10  # fractional bits of such means
CAP = 31  # largest magnitude that counts in them
ROW_PACE, COLUMN_PACE = 4, 5  # means over about 2⁴ and 2⁵ levels
LIMIT = 250  # largest age of a prediction, from which on its rate is constant
SLOWEST = (65536 + LIMIT // 2 + 1) // (LIMIT + 2)
PRECISION = 16  # bits of a coding probability
ODDS = 2047  # largest log-odds, in 256ths
RATE = 14  # learning rate of the mixing weights
LONGEST = 40  # bits of an Exp-Golomb code
WORD = 48  # bits of the interval's ends
TOGETHER = 16  # columns that are copied at a time
SPAN = 16  # slots for the decisions of a context
SUMS = 2048  # place of the classes of sums, after those of means

Tables = tuple[Int64[np.ndarray, " 4096"], Int64[np.ndarray, " 4095"], Int64[np.ndarray, " 256"]]
Packed = tuple[
    Int16[np.ndarray, " 4096"], UInt32[np.ndarray, " 4096"], Int64[np.ndarray, " 256"], UInt8[np.ndarray, " 2080"]
]


@functools.cache
def tables() -> Tables:
    """Compute the tables: log-odds by probability, probability by log-odds, and adaptation rate by age.

    Log-odds are ln(p/(1 − p)) in 256ths, as the inverse of the rounded logistic function. In decimal arithmetic,
    which rounds the same everywhere, unlike the mathematical libraries of different machines.
    """
    with decimal.localcontext(decimal.Context(prec=30)):
        powers = [(decimal.Decimal(-d) / 256).exp() for d in range(-ODDS, ODDS + 1)]
        squash = np.array([int((65536 / (1 + power)).to_integral_value()) for power in powers], np.int64)
    stretch = np.searchsorted(squash, (np.arange(4096) << 4) + 8).clip(0, 2 * ODDS) - ODDS
    age = np.arange(256)
    return stretch.astype(np.int64), squash, (65536 + age // 2 + 1) // (age + 2)


@functools.cache
def packed() -> Packed:
    """Pack the tables for :func:`walk`.

    Returns:
        Log-odds by probability; probability p by log-odds, with ⌈7p/8⌉ in the upper 16 bits; adaptation rate by age;
        class by mean in 64ths, and after them of the neighbours' sum, times ``SPAN``.
    """
    stretch, squash, pace = tables()
    squash = np.append(squash | (squash - (squash >> 3)) << 16, 0)
    means = [_class_of(mean) for mean in range(SUMS)]
    sums = [min(3 * around // 4, NEAR - 1) * SPAN for around in range(32)]
    return stretch.astype(np.int16), squash.astype(np.uint32), pace, np.array(means + sums, np.uint8)


def _class_of(mean: int) -> int:
    """Class of a mean, in 64ths: half-octaves from 1/32 on."""
    if mean < 2:
        return 0
    octave = mean.bit_length() - 1
    return min(2 * octave - 1 + ((mean >> (octave - 1)) & 1), MEANS - 1)


@compiled()
def _shifted(low, high, code, at, decoding, data):  # type: ignore[no-untyped-def]
    """Write or read the bytes on which both ends of the interval agree."""
    while (low ^ high) >> (WORD - 8) == 0:
        if decoding:
            byte = np.int64(0)
            if at + WORD // 8 < len(data):
                byte = np.int64(data[at + WORD // 8])
            code = ((code & ((1 << (WORD - 8)) - 1)) << 8) | byte
        elif at < len(data):
            data[at] = high >> (WORD - 8)
        at += 1
        low = (low & ((1 << (WORD - 8)) - 1)) << 8
        high = ((high & ((1 << (WORD - 8)) - 1)) << 8) | 255
    return low, high, code, at


@compiled()
def _code(y, p, coder, decoding, data):  # type: ignore[no-untyped-def]
    """Encode or decode a bit y that is 1 with probability p."""
    low, high, code, at = coder
    middle = low + ((high - low) >> PRECISION) * p
    if decoding:
        y = code <= middle
    if y:
        high = middle
    else:
        low = middle + 1
    return y, _shifted(low, high, code, at, decoding, data)


@compiled()
def _single(y, coder, decoding, data, slot, i, pace):  # type: ignore[no-untyped-def]
    """Encode or decode a bit by one prediction (22 bits, and an age of 10), which moves toward the bit."""
    known = np.int64(slot[i])
    p, age = known >> 10, known & 255
    y, coder = _code(y, min(max(p >> 6, 32), 65504), coder, decoding, data)
    p += (((((1 << 22) - 1 if y else 0) - p) * pace[age]) >> 16)
    slot[i] = (p << 10) | min(age + 1, LIMIT)
    return y, coder


@compiled()
def _escaped(beyond, coder, decoding, data, slot, at, pace):  # type: ignore[no-untyped-def]
    """Encode or decode what is left of a magnitude after all decisions, and return the magnitude."""
    length, found = 0, 0
    if not decoding:
        while beyond >> (length + 1):
            length += 1
    while found < LONGEST:
        more, coder = _single(found < length, coder, decoding, data, slot, at + found, pace)
        if not more:
            break
        found += 1
    rest = np.int64(1)
    for b in range(found - 1, -1, -1):
        bit, coder = _code((beyond >> b) & 1 != 0, 1 << (PRECISION - 1), coder, decoding, data)
        rest = 2 * rest + bit
    return UNARY - 1 + rest, coder


@compiled()
def _mixed(weight, odds):  # type: ignore[no-untyped-def]
    """Mix predictions: the place of the probability in its table."""
    return (min(max(dot(weight, odds) >> 16, -ODDS), ODDS) + ODDS) & 4095


@compiled()
def _weights(y, weight, odds, price):  # type: ignore[no-untyped-def]
    """Adapt the mixing weights to the observed bit."""
    return weight + ((odds * ((y * 57344) - high_bits(price, 16)) + 0x8000) >> 16)


@compiled()
def _learn(y, at, state, slot):  # type: ignore[no-untyped-def]
    """Adapt predictions (22 bits, and ages of 10) to the observed bit."""
    age = state & 1023
    if all_at_least(age, LIMIT):
        rate = splat(SLOWEST)
    else:
        rate = divide(65537 + (age >> 1), age + 2)
    # The product with the rate has 38 bits.
    off = ((y << 22) - y) - high_bits(state, 10)
    change = ((off >> 11) * rate + (((off & 2047) * rate) >> 11)) >> 5
    put(slot, at, state + least(LIMIT - age, 1) + (change << 10))


@compiled()
def _look_left(last, left, further, row_mean, kind, seen):  # type: ignore[no-untyped-def]
    """Update the rows' means, and pack the classes that do not depend on levels above, for a whole column.

    Classes are of the neighbours' sum (without the levels above), of the near ones, and of the mean; and the last sign.
    """
    rows = len(last)
    for i in range(rows):
        left[i + 1] = min(abs(last[i]), np.int32(CAP))
    for i in range(rows):
        row_mean[i] += ((np.int32(left[i + 1]) << np.int32(FRACTION)) - row_mean[i]) >> np.int32(ROW_PACE)
        seen[i] = np.int32(kind[(row_mean[i] >> np.int32(4)) & np.int32(2047)])
    two, three, four = np.int32(2), np.int32(3), np.int32(4)
    for i in range(rows):
        u, l1, v, l2 = np.int32(left[i]), np.int32(left[i + 1]), np.int32(left[i + 2]), np.int32(further[i + 1])
        around = two * min(l1, four) + min(l2, three) + min(u, three) + min(v, three)
        close = min(l1, two) * three + min(min(u, two) + min(v, two), two)
        sign = np.int32(1) + np.int32(last[i] > 0) - np.int32(last[i] < 0)
        seen[i] = (seen[i] << np.int32(24)) | (close * np.int32(SPAN) << np.int32(8)) | (sign << np.int32(5)) | around


@compiled()
def walk(
    level: Int32[np.ndarray, "rows cols"],
    data: UInt8[np.ndarray, " bytes"],
    decoding: bool,
    dependent: bool,
    transition: UInt8[np.ndarray, "8 2"],
    stretch: Int16[np.ndarray, " 4096"],
    squash: UInt32[np.ndarray, " 4096"],
    pace: Int64[np.ndarray, " 256"],
    kind: UInt8[np.ndarray, " 2080"],
) -> int:
    """Encode or decode levels, column by column.

    Returns:
        Bytes of the stream, even if ``data`` has no room for them; −1 for an invalid stream.
    """
    rows, cols = level.shape
    # Slots of each mixed prediction, with those of a context's decisions side by side, then of the single ones.
    begin_1 = 8 * 2 * SPAN
    begin_2 = begin_1 + 8 * CLOSE * SPAN
    begin_3 = begin_2 + 8 * NEAR * SPAN
    begin_4 = begin_3 + 2 * MEANS * MEANS * SPAN
    begin_5 = begin_4 + 2 * MEANS * NEAR * SPAN
    begin_6 = begin_5 + 4 * rows
    sign_at = begin_6 + 4 * cols
    long_at = sign_at + 2 * 9
    slot = np.full(long_at + LONGEST + 1, 1 << 31, np.uint32)
    weight = np.full(UNARY * LANES, 65536 * 2 // 10, np.int32)
    weight_0 = load(weight, 0)
    low, high, code, place = np.int64(0), np.int64((1 << WORD) - 1), np.int64(0), np.int64(0)
    if decoding:
        for i in range(WORD // 8):
            code = (code << 8) | (np.int64(data[i]) if i < len(data) else np.int64(0))
    row_mean = np.full(rows, 1 << (FRACTION - 2), np.int32)
    column_mean = np.int64(1 << (FRACTION - 2))
    strip = np.zeros((min(cols, TOGETHER), rows), np.int32)
    left, further = np.zeros(rows + 2, np.uint8), np.zeros(rows + 2, np.uint8)
    left_of = np.zeros(rows, np.int32)
    for j in range(cols):
        v = j % TOGETHER
        if j == 0:
            for i in range(rows):
                left_of[i] = (np.int32(kind[row_mean[i] >> 4]) << 24) | (1 << 5)
        else:
            left, further = further, left
            _look_left(strip[(j - 1) % TOGETHER], left, further, row_mean, kind, left_of)
        if v == 0 and not decoding:
            for i in range(rows):
                for w in range(min(cols - j, TOGETHER)):
                    strip[w, i] = level[i, j + w]
        state, above = np.int64(0), np.int64(1)
        around_above, cut_above, close_above = np.int64(0), np.int64(0), np.int64(0)
        row_at, column_at = begin_5, begin_6 + 4 * j
        for i in range(rows):
            packed = np.int64(left_of[i])
            near = np.int64(kind[SUMS + around_above + (packed & 31)])
            close = close_above + ((packed >> 8) & 255)
            beside = np.int64(kind[(column_mean >> 4) & 2047]) * SPAN
            grid = (state >> 2) * MEANS * MEANS * SPAN
            at_3 = begin_3 + grid + beside + (packed >> 16)
            at_4 = begin_4 + grid + beside * NEAR + near
            at_1, at_2 = begin_1 + state * CLOSE * SPAN + close, begin_2 + state * NEAR * SPAN + near
            k = np.int64(strip[v, i])
            at = state * 2 * SPAN, at_1, at_2, at_3, at_4, row_at, column_at
            known, odds = take(slot, at), look_up(stretch, slot, at, 20)
            mixed = _mixed(weight_0, odds)
            price, p = equal(squash, mixed), np.int64(squash[mixed] & 65535)
            middle = low + ((high - low) >> PRECISION) * p
            if (code > middle) if decoding else (k == 0):
                weight_0 = _weights(0, weight_0, odds, price)
                _learn(0, at, known, slot)
                low, high, code, place = _shifted(middle + 1, high, code, place, decoding, data)
                if decoding:
                    strip[v, i] = 0
                around_above, cut_above, close_above, above = cut_above, np.int64(0), np.int64(0), np.int64(1)
                column_mean += (0 - column_mean) >> COLUMN_PACE
                if dependent:
                    state = np.int64(transition[state & 7, 0])
            else:
                size, negative = abs(k), k < 0
                weight_0 = _weights(1, weight_0, odds, price)
                _learn(1, at, known, slot)
                low, high, code, place = _shifted(low, middle, code, place, decoding, data)
                grid = state >> 2
                c = sign_at + grid * 9 + above * 3 + ((packed >> 5) & 3)
                negative, (low, high, code, place) = _single(
                    negative, (low, high, code, place), decoding, data, slot, c, pace
                )
                from_0 = (2 * grid + negative) * SPAN
                at_1, at_2 = begin_1 + grid * CLOSE * SPAN + close, begin_2 + grid * NEAR * SPAN + near
                seen = 1
                while seen < UNARY:
                    more = min(seen, 2)
                    at = from_0 + seen, at_1 + seen, at_2 + seen, at_3 + seen, at_4 + seen, row_at + more, column_at + more
                    known, odds = take(slot, at), look_up(stretch, slot, at, 20)
                    mixing = load(weight, seen * LANES)
                    mixed = _mixed(mixing, odds)
                    price, p = equal(squash, mixed), np.int64(squash[mixed] & 65535)
                    middle = low + ((high - low) >> PRECISION) * p
                    if (code > middle) if decoding else (size <= seen):
                        store(weight, seen * LANES, _weights(0, mixing, odds, price))
                        _learn(0, at, known, slot)
                        low, high, code, place = _shifted(middle + 1, high, code, place, decoding, data)
                        break
                    store(weight, seen * LANES, _weights(1, mixing, odds, price))
                    _learn(1, at, known, slot)
                    low, high, code, place = _shifted(low, middle, code, place, decoding, data)
                    seen += 1
                if seen == UNARY:
                    seen, (low, high, code, place) = _escaped(
                        size - UNARY + 1, (low, high, code, place), decoding, data, slot, long_at, pace
                    )
                if decoding:
                    k = -seen if negative else seen
                    strip[v, i] = k
                column_mean += ((min(seen, CAP) << FRACTION) - column_mean) >> COLUMN_PACE
                around_above = 2 * min(seen, 4) + cut_above
                cut_above, close_above, above = min(seen, 3), 9 * SPAN * min(seen, 2), np.int64(0 if negative else 2)
                if dependent:
                    state = np.int64(transition[state & 7, k & 1])
            row_at += 4
        if decoding and (v == TOGETHER - 1 or j == cols - 1):
            for i in range(rows):
                for w in range(v + 1):
                    level[i, j - v + w] = strip[w, i]
    # The fewest bytes such that any continuation is inside the interval: a reader appends zeros.
    for n in range(WORD // 8 + 1):
        rest = (1 << (WORD - 8 * n)) - 1
        end = (low + rest) & ~rest
        if end <= high:
            if decoding:
                return len(data) if place + n == len(data) and code == end else -1
            for b in range(n):
                if place < len(data):
                    data[place] = (end >> (WORD - 8 - 8 * b)) & 255
                place += 1
            break
    return place
