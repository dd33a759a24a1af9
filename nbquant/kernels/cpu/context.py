"""Kernel of the context code: one pass over a matrix of levels that encodes or decodes, and adapts.

All in integers, so that a file reads the same everywhere. Predictions are probabilities of a one.
"""

import decimal
import functools

import numpy as np
from jaxtyping import Int64, UInt8

from nbquant.kernels.compiled import compiled

UNARY = 15  # decisions "is it larger than 0, 1, 2 …" of a level; the rest is an Exp-Golomb code
MIXED = 7  # predictions of each decision
NEAR = 16  # classes of a weighted sum of neighbours
CLOSE = 27  # classes of three neighbours
MEANS = 16  # classes of the recent mean magnitude in a row or column
FRACTION = 10  # fractional bits of such means
CAP = 31  # largest magnitude that counts in them
ROW_PACE, COLUMN_PACE = 4, 5  # means over about 2⁴ and 2⁵ levels
LIMIT = 250  # largest age of a prediction, from which on its rate is constant
PRECISION = 16  # bits of a coding probability
ODDS = 2047  # largest log-odds, in 256ths
RATE = 14  # learning rate of the mixing weights
LONGEST = 40  # bits of an Exp-Golomb code
WORD = 48  # bits of the interval's ends
LOW, HIGH, CODE, AT = 0, 1, 2, 3  # state of the coder

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


@compiled()
def _code(y, p, decoding, coder, data):  # type: ignore[no-untyped-def]
    """Encode or decode a bit y that is 1 with probability p."""
    low, high = coder[LOW], coder[HIGH]
    middle = low + ((high - low) >> PRECISION) * p
    if decoding:
        y = 1 if coder[CODE] <= middle else 0
    if y:
        high = middle
    else:
        low = middle + 1
    while (low ^ high) >> (WORD - 8) == 0:
        at = coder[AT]
        if decoding:
            byte = np.int64(0)
            if at + WORD // 8 < len(data):
                byte = np.int64(data[at + WORD // 8])
            coder[CODE] = ((coder[CODE] & ((1 << (WORD - 8)) - 1)) << 8) | byte
        elif at < len(data):
            data[at] = high >> (WORD - 8)
        coder[AT] = at + 1
        low = (low & ((1 << (WORD - 8)) - 1)) << 8
        high = ((high & ((1 << (WORD - 8)) - 1)) << 8) | 255
    coder[LOW], coder[HIGH] = low, high
    return y


@compiled()
def _learn(slot, i, y, pace):  # type: ignore[no-untyped-def]
    """Move a prediction (22 bits, and an age of 10) toward the observed bit."""
    known = np.int64(slot[i])
    p, age = known >> 10, known & 1023
    p += ((((y << 22) - y) - p) * pace[age]) >> 16
    if age < LIMIT:
        age += 1
    slot[i] = (p << 10) | age


@compiled()
def _mixed(y, decoding, coder, data, slot, at, odds, weight, row, stretch, squash, pace):  # type: ignore[no-untyped-def]
    """Encode or decode a bit by all predictions mixed; predictions and mixing weights adapt."""
    dot = 0
    for i in range(MIXED):
        odds[i] = stretch[np.int64(slot[at[i]]) >> 20]
        dot += weight[row, i] * odds[i]
    dot = min(max(dot >> 16, -ODDS), ODDS)
    p = squash[dot + ODDS]
    y = _code(y, p, decoding, coder, data)
    error = (((y << 16) - p) * RATE) >> 4
    for i in range(MIXED):
        weight[row, i] += (odds[i] * error + 0x8000) >> 16
        _learn(slot, at[i], y, pace)
    return y


@compiled()
def _single(y, decoding, coder, data, slot, i, pace):  # type: ignore[no-untyped-def]
    """Encode or decode a bit by one prediction."""
    p = min(max(np.int64(slot[i]) >> 16, 32), 65504)
    y = _code(y, p, decoding, coder, data)
    _learn(slot, i, y, pace)
    return y


@compiled()
def _class_of(mean):  # type: ignore[no-untyped-def]
    """Class of a mean: half-octaves from 1/32 on."""
    a = mean >> (FRACTION - 6)
    if a < 2:
        return 0
    octave = 0
    while a >> (octave + 1):
        octave += 1
    return min(2 * octave - 1 + ((a >> (octave - 1)) & 1), MEANS - 1)


@compiled()
def walk(
    level: Int64[np.ndarray, "rows cols"],
    data: UInt8[np.ndarray, " bytes"],
    decoding: bool,
    dependent: bool,
    transition: UInt8[np.ndarray, "8 2"],
    stretch: Int64[np.ndarray, " 4096"],
    squash: Int64[np.ndarray, " 4095"],
    pace: Int64[np.ndarray, " 256"],
) -> int:
    """Encode or decode levels, column by column.

    Returns:
        Bytes of the stream, even if ``data`` has no room for them; −1 for an invalid stream.
    """
    rows, cols = level.shape
    span = 8 * UNARY
    begin = np.zeros(MIXED + 1, np.int64)
    sizes = (
        2 * span,
        span * CLOSE,
        span * NEAR,
        2 * UNARY * MEANS * MEANS,
        2 * UNARY * MEANS * NEAR,
        rows * 3,
        cols * 3,
    )
    for i in range(MIXED):
        begin[i + 1] = begin[i] + sizes[i]
    sign_at = begin[MIXED]
    long_at = sign_at + 2 * 9
    slot = np.full(long_at + LONGEST + 1, 1 << 31, np.uint32)
    weight = np.full((UNARY, MIXED), 65536 * 2 // 10, np.int64)
    at, odds = np.zeros(MIXED, np.int64), np.zeros(MIXED, np.int64)
    coder = np.zeros(4, np.int64)
    coder[HIGH] = (1 << WORD) - 1
    if decoding:
        for i in range(WORD // 8):
            coder[CODE] = (coder[CODE] << 8) | (int(data[i]) if i < len(data) else 0)
    row_mean = np.full(rows, 1 << (FRACTION - 2), np.int64)
    column_mean = 1 << (FRACTION - 2)
    for j in range(cols):
        state = 0
        a1, a2, d1, above = 0, 0, 0, 0
        for i in range(rows):
            n1 = int(level[i, j - 1]) if j > 0 else 0
            l1 = abs(n1)
            l2 = abs(int(level[i, j - 2])) if j > 1 else 0
            d2 = abs(int(level[i + 1, j - 1])) if i + 1 < rows and j > 0 else 0
            close = (min(a1, 2) * 3 + min(l1, 2)) * 3 + min(min(d1, 2) + min(d2, 2), 2)
            around = 2 * (min(a1, 4) + min(l1, 4)) + min(a2, 3) + min(l2, 3) + min(d1, 3) + min(d2, 3)
            near = min(around * 3 // 4, NEAR - 1)
            own, beside = _class_of(row_mean[i]), _class_of(column_mean)
            grid = 1 if state >= 4 else 0
            k = int(level[i, j])
            size = abs(k)
            seen, negative = 0, 0
            while seen < UNARY:
                first = (state if seen == 0 else grid) * UNARY + seen
                second = grid * UNARY + seen
                at[0] = first + negative * span
                at[1] = begin[1] + first * CLOSE + close
                at[2] = begin[2] + first * NEAR + near
                at[3] = begin[3] + (second * MEANS + own) * MEANS + beside
                at[4] = begin[4] + (second * MEANS + beside) * NEAR + near
                at[5] = begin[5] + 3 * i + min(seen, 2)
                at[6] = begin[6] + 3 * j + min(seen, 2)
                y = 1 if size > seen else 0
                y = _mixed(y, decoding, coder, data, slot, at, odds, weight, seen, stretch, squash, pace)
                if not y:
                    break
                if seen == 0:
                    c = grid * 9 + (1 + (above > 0) - (above < 0)) * 3 + 1 + (n1 > 0) - (n1 < 0)
                    negative = _single(1 if k < 0 else 0, decoding, coder, data, slot, sign_at + c, pace)
                seen += 1
            if seen == UNARY:
                beyond, length = size - UNARY + 1, 0
                if not decoding:
                    while beyond >> (length + 1):
                        length += 1
                found = 0
                while found < LONGEST:
                    more = 1 if found < length else 0
                    if not _single(more, decoding, coder, data, slot, long_at + found, pace):
                        break
                    found += 1
                rest = 1
                for b in range(found - 1, -1, -1):
                    rest = 2 * rest + _code((beyond >> b) & 1, 1 << (PRECISION - 1), decoding, coder, data)
                seen = UNARY - 1 + rest
            if decoding:
                k = -seen if negative else seen
                level[i, j] = k
            capped = min(seen, CAP) << FRACTION
            row_mean[i] += (capped - row_mean[i]) >> ROW_PACE
            column_mean += (capped - column_mean) >> COLUMN_PACE
            a2, a1, above, d1 = a1, seen, k, l1
            if dependent:
                state = int(transition[state, k & 1])
    # The fewest bytes such that any continuation is inside the interval: a reader appends zeros.
    for n in range(WORD // 8 + 1):
        rest = (1 << (WORD - 8 * n)) - 1
        end = (coder[LOW] + rest) & ~rest
        if end <= coder[HIGH]:
            if decoding:
                whole = coder[AT] + n == len(data) and coder[CODE] == end
                return len(data) if whole else -1
            for b in range(n):
                if coder[AT] < len(data):
                    data[coder[AT]] = (end >> (WORD - 8 - 8 * b)) & 255
                coder[AT] += 1
            break
    return int(coder[AT])
