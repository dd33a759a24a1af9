"""Kernel of the context code: one pass over a matrix of levels that encodes or decodes, and adapts.

All in integers, so that a file reads the same everywhere. Predictions are probabilities of a one.
One module, as tables, predictions and the pass share the layout of one array.
"""

import decimal
import functools

import numpy as np
from jaxtyping import Int32, Int64, UInt8, UInt32

from nbquant.kernels.compiled import compiled
from nbquant.kernels.cpu.lanes import (
    LANES,
    all_at_least,
    divide,
    dot,
    entry,
    equal,
    high_bits,
    least,
    load,
    look_up,
    put,
    store,
    take,
)
from nbquant.kernels.reference import TRANSITION

UNARY = 15  # decisions "is it larger than 0, 1, 2 …" of a level; the rest is an Exp-Golomb code
MIXED = 7  # predictions of each decision
NEAR = 16  # classes of a weighted sum of neighbours
CLOSE = 27  # classes of three neighbours
MEANS = 16  # classes of the recent mean magnitude in a row or column
FRACTION = 10  # fractional bits of such means
CAP = 31  # largest magnitude that counts in them
ROW_PACE, COLUMN_PACE = 4, 5  # means over about 2⁴ and 2⁵ levels
LIMIT = 250  # largest age of a prediction, from which on its rate is constant
SLOWEST = (65536 + LIMIT // 2 + 1) // (LIMIT + 2)  # that rate
PRECISION = 16  # bits of a coding probability
ODDS = 2047  # largest log-odds, in 256ths
RATE = 14  # learning rate of the mixing weights, in 16ths of the error
LARGEST = 1 << 31  # magnitudes of levels are smaller
INVALID, TOO_LARGE = -1, -2
LONGEST = 40  # bits of an Exp-Golomb code
WORD = 48  # bits of the interval's ends
TOGETHER = 16  # columns that are copied at a time
SPAN = 16  # predictions of a context, one for each decision

# One array has the tables, then the mixing weights, then the predictions: so that all are at known places of it.
PACE = 0  # adaptation rates by age
KIND = PACE + 256  # classes by mean in 64ths
SUM = KIND + 2048  # classes by the neighbours' sum, times SPAN
NEXT = SUM + 32  # states by state and parity
STRETCH = NEXT + 16  # log-odds by probability
SQUASH = STRETCH + 4096  # probabilities p by log-odds, and ⌈RATE · p / 16⌉ in the upper 16 bits
WEIGHT = SQUASH + 4096
BY_SIGN = WEIGHT + UNARY * LANES
BY_CLOSE = BY_SIGN + 8 * 2 * SPAN
BY_NEAR = BY_CLOSE + 8 * CLOSE * SPAN
BY_MEANS = BY_NEAR + 8 * NEAR * SPAN
BY_COLUMN_MEAN = BY_MEANS + 2 * MEANS * MEANS * SPAN
SIGN = BY_COLUMN_MEAN + 2 * MEANS * NEAR * SPAN
LONG = SIGN + 2 * 9
BY_ROW = LONG + LONGEST + 1
PER_ROW = 4  # predictions of a row or column

Tables = tuple[Int64[np.ndarray, " 4096"], Int64[np.ndarray, " 4095"], Int64[np.ndarray, " 256"]]


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
def initial_model() -> UInt32[np.ndarray, " n"]:
    """Make the array of the model before the first level, without predictions of rows and columns."""
    stretch, squash, pace = tables()
    model = np.full(BY_ROW, 1 << 31, np.uint32)
    model[PACE:KIND] = pace
    model[KIND:SUM] = [_class_of(mean) for mean in range(SUM - KIND)]
    model[SUM:NEXT] = [min(3 * around // 4, NEAR - 1) * SPAN for around in range(NEXT - SUM)]
    model[NEXT:STRETCH] = TRANSITION.reshape(-1)
    model[STRETCH:SQUASH] = stretch.astype(np.int32).view(np.uint32)
    model[SQUASH : WEIGHT - 1] = squash | -(-squash * RATE >> 4) << 16
    model[WEIGHT:BY_SIGN] = 65536 * 2 // 10
    return model


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


@compiled(inline=True)
def _code(y, p, low, high, code, at, decoding, data):  # type: ignore[no-untyped-def]
    """Encode or decode a bit y that is 1 with probability p."""
    middle = low + ((high - low) >> PRECISION) * p
    bit = code <= middle if decoding else y
    low, high = low if bit else middle + 1, middle if bit else high
    low, high, code, at = _shifted(low, high, code, at, decoding, data)
    return bit, low, high, code, at


@compiled(inline=True)
def _single(y, low, high, code, at, decoding, data, model, i):  # type: ignore[no-untyped-def]
    """Encode or decode a bit by one prediction (22 bits, and an age of 10), which moves toward the bit."""
    known = entry(model, i)
    p, age = known >> 10, known & 255
    bit, low, high, code, at = _code(y, min(max(p >> 6, 32), 65504), low, high, code, at, decoding, data)
    p += (((((1 << 22) - 1) if bit else 0) - p) * entry(model, PACE + age)) >> 16
    model[i] = (p << 10) | min(age + 1, LIMIT)
    return bit, low, high, code, at


@compiled()
def _escaped(beyond, low, high, code, at, decoding, data, model):  # type: ignore[no-untyped-def]
    """Encode or decode what is left of a magnitude after all decisions, and return the magnitude."""
    length, found = 0, 0
    if not decoding:
        while beyond >> (length + 1):
            length += 1
    while found < LONGEST:
        more, low, high, code, at = _single(found < length, low, high, code, at, decoding, data, model, LONG + found)
        if not more:
            break
        found += 1
    rest = np.int64(1)
    for b in range(found - 1, -1, -1):
        bit = (beyond >> b) & 1 != 0
        bit, low, high, code, at = _code(bit, 1 << (PRECISION - 1), low, high, code, at, decoding, data)
        rest = 2 * rest + bit
    return UNARY - 1 + rest, low, high, code, at


@compiled()
def _mixed(weight, odds):  # type: ignore[no-untyped-def]
    """Mix predictions: the place of the probability in its table."""
    return SQUASH + ODDS + min(max(dot(weight, odds) >> 16, -ODDS), ODDS)


@compiled()
def _weights(y, weight, odds, price):  # type: ignore[no-untyped-def]
    """Adapt the mixing weights to the observed bit.

    They have 32 bits: at each level their norm grows by less than 4 where the odds are saturated, and otherwise like
    that of a random walk with steps below 6,000, so that it stays far below 2³¹ for blocks of 2²² levels.
    """
    return weight + ((odds * (((y << PRECISION) * RATE >> 4) - high_bits(price, 16)) + 0x8000) >> 16)


@compiled()
def _learn(y, at, state, model):  # type: ignore[no-untyped-def]
    """Adapt predictions (22 bits, and ages of 10) to the observed bit."""
    age, off = state & 1023, ((y << 22) - y) - high_bits(state, 10)
    if all_at_least(age, LIMIT):
        put(model, at, state + (((off * SLOWEST) >> 16) << 10))
        return
    rate = divide(65537 + (age >> 1), age + 2)
    # The product with the rate has 38 bits.
    change = ((off >> 11) * rate + (((off & 2047) * rate) >> 11)) >> 5
    put(model, at, state + least(LIMIT - age, 1) + (change << 10))


@compiled()
def _look_left(last, left, further, row_mean, model, seen):  # type: ignore[no-untyped-def]
    """Update the rows' means, and pack the classes that do not depend on levels above, for a whole column.

    From the highest bits: class of the mean, class of the near neighbours, sign to the left, neighbours' sum.
    """
    rows = len(last)
    for i in range(rows):
        left[i + 1] = min(abs(last[i]), np.int32(CAP))
    for i in range(rows):
        row_mean[i] += ((np.int32(left[i + 1]) << np.int32(FRACTION)) - row_mean[i]) >> np.int32(ROW_PACE)
        seen[i] = np.int32(entry(model, KIND + (row_mean[i] >> np.int32(4))))
    two, three, four = np.int32(2), np.int32(3), np.int32(4)
    for i in range(rows):
        u, l1, v, l2 = np.int32(left[i]), np.int32(left[i + 1]), np.int32(left[i + 2]), np.int32(further[i + 1])
        around = two * min(l1, four) + min(l2, three) + min(u, three) + min(v, three)
        close = min(l1, two) * three + min(min(u, two) + min(v, two), two)
        sign = np.int32(1) + np.int32(last[i] > 0) - np.int32(last[i] < 0)
        seen[i] = (seen[i] << np.int32(24)) | (close * np.int32(SPAN) << np.int32(8)) | (sign << np.int32(5)) | around


@compiled()
def _first(data):  # type: ignore[no-untyped-def]
    """Read as many bytes as the interval's ends have."""
    code = np.int64(0)
    for i in range(WORD // 8):
        code = (code << 8) | (np.int64(data[i]) if i < len(data) else np.int64(0))
    return code


@compiled()
def walk(
    level: Int32[np.ndarray, "rows cols"],
    data: UInt8[np.ndarray, " bytes"],
    decoding: bool,
    dependent: bool,
    initial: UInt32[np.ndarray, " n"],
) -> int:
    """Encode or decode levels, column by column.

    Returns:
        Bytes of the stream, even if ``data`` has no room for them; ``INVALID`` for a stream that no levels have,
        ``TOO_LARGE`` for levels beyond 32 bits.
    """
    rows, cols = level.shape
    model = np.full(BY_ROW + PER_ROW * (rows + cols), 1 << 31, np.uint32)
    model[:BY_ROW] = initial
    if not dependent:
        model[NEXT:STRETCH] = 0
    weight_0 = load(model, WEIGHT)
    low, high, code, place = 0, (1 << WORD) - 1, _first(data) if decoding else 0, 0
    row_mean = np.full(rows, 1 << (FRACTION - 2), np.int32)
    column_mean = 1 << (FRACTION - 2)
    strip = np.zeros((min(cols, TOGETHER), rows), np.int32)
    left, further = np.zeros(rows + 2, np.uint8), np.zeros(rows + 2, np.uint8)
    left_of = np.zeros(rows, np.int32)
    for j in range(cols):
        v = j % TOGETHER
        if j == 0:
            for i in range(rows):
                left_of[i] = (np.int32(entry(model, KIND + (row_mean[i] >> 4))) << 24) | (1 << 5)
        else:
            left, further = further, left
            _look_left(strip[(j - 1) % TOGETHER], left, further, row_mean, model, left_of)
        if v == 0:
            for i in range(rows):
                for w in range(min(cols - j, TOGETHER)):
                    strip[w, i] = 0 if decoding else level[i, j + w]
        column = strip[v]
        state, above = 0, 1
        around_above, cut_above, close_above = 0, 0, 0
        row_at, column_at = BY_ROW, BY_ROW + PER_ROW * (rows + j)
        for i in range(rows):
            packed = int(left_of[i])
            near = entry(model, SUM + around_above + (packed & 31))
            close = close_above + ((packed >> 8) & 255)
            beside = entry(model, KIND + (column_mean >> 4)) * SPAN
            grid = (state >> 2) * MEANS * MEANS * SPAN
            at_3 = BY_MEANS + grid + beside + (packed >> 16)
            at_4 = BY_COLUMN_MEAN + grid + beside * NEAR + near
            at_1, at_2 = BY_CLOSE + state * CLOSE * SPAN + close, BY_NEAR + state * NEAR * SPAN + near
            at = BY_SIGN + state * 2 * SPAN, at_1, at_2, at_3, at_4, row_at, column_at
            known, odds = take(model, at), look_up(model, at, 20, STRETCH)
            mixed = _mixed(weight_0, odds)
            price, p = equal(model, mixed), entry(model, mixed) & 65535
            middle = low + ((high - low) >> PRECISION) * p
            if (code > middle) if decoding else (column[i] == 0):
                weight_0 = _weights(0, weight_0, odds, price)
                _learn(0, at, known, model)
                low, high, code, place = _shifted(middle + 1, high, code, place, decoding, data)
                around_above, cut_above, close_above, above = cut_above, 0, 0, 1
                column_mean += (0 - column_mean) >> COLUMN_PACE
                state = entry(model, NEXT + 2 * state)
            else:
                k = int(column[i])
                size = abs(k)
                weight_0 = _weights(1, weight_0, odds, price)
                _learn(1, at, known, model)
                low, high, code, place = _shifted(low, middle, code, place, decoding, data)
                grid = state >> 2
                negative, low, high, code, place = _single(
                    k < 0,
                    low,
                    high,
                    code,
                    place,
                    decoding,
                    data,
                    model,
                    SIGN + grid * 9 + above * 3 + ((packed >> 5) & 3),
                )
                at_0 = BY_SIGN + (2 * grid + negative) * SPAN
                at_1, at_2 = BY_CLOSE + grid * CLOSE * SPAN + close, BY_NEAR + grid * NEAR * SPAN + near
                seen = 1
                while seen < UNARY:
                    more = min(seen, 2)
                    at = (
                        at_0 + seen,
                        at_1 + seen,
                        at_2 + seen,
                        at_3 + seen,
                        at_4 + seen,
                        row_at + more,
                        column_at + more,
                    )
                    known, odds = take(model, at), look_up(model, at, 20, STRETCH)
                    weight = load(model, WEIGHT + seen * LANES)
                    mixed = _mixed(weight, odds)
                    price, p = equal(model, mixed), entry(model, mixed) & 65535
                    middle = low + ((high - low) >> PRECISION) * p
                    if (code > middle) if decoding else (size <= seen):
                        store(model, WEIGHT + seen * LANES, _weights(0, weight, odds, price))
                        _learn(0, at, known, model)
                        low, high, code, place = _shifted(middle + 1, high, code, place, decoding, data)
                        break
                    store(model, WEIGHT + seen * LANES, _weights(1, weight, odds, price))
                    _learn(1, at, known, model)
                    low, high, code, place = _shifted(low, middle, code, place, decoding, data)
                    seen += 1
                if seen == UNARY:
                    seen, low, high, code, place = _escaped(
                        size - UNARY + 1, low, high, code, place, decoding, data, model
                    )
                if decoding:
                    if seen >= LARGEST:
                        return TOO_LARGE
                    k = -seen if negative else seen
                    column[i] = k
                column_mean += ((min(seen, CAP) << FRACTION) - column_mean) >> COLUMN_PACE
                around_above = 2 * min(seen, 4) + cut_above
                cut_above, close_above, above = min(seen, 3), 9 * SPAN * min(seen, 2), 0 if negative else 2
                state = entry(model, NEXT + 2 * state + (k & 1))
            row_at += PER_ROW
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
                return len(data) if place + n == len(data) and code == end else INVALID
            for b in range(n):
                if place < len(data):
                    data[place] = (end >> (WORD - 8 - 8 * b)) & 255
                place += 1
            break
    return place
