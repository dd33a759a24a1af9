"""Adaptive coding after FORMAT.md, in plain Python, apart from the package's."""

from decimal import Context, Decimal, localcontext
from functools import cache

NEXT = [(0, 4), (2, 6), (4, 0), (6, 2), (7, 3), (5, 1), (3, 7), (1, 5)]
TOP = (1 << 48) - 1


@cache
def squash_and_stretch():
    with localcontext(Context(prec=40)):
        squash = [int((65536 / (1 + (Decimal(-i) / 256).exp())).to_integral_value()) for i in range(-2047, 2048)]
    return squash, [min(-2047 + sum(s < 16 * j + 8 for s in squash), 2047) for j in range(4096)]


class Bits:
    def __init__(self, data):
        self.data, self.taken, self.low, self.high = data, 6, 0, TOP
        self.value = int.from_bytes(data[:6].ljust(6, b"\0"), "big")

    def next(self, p):
        middle = self.low + ((self.high - self.low) >> 16) * p
        bit = int(self.value <= middle)
        self.low, self.high = (self.low, middle) if bit else (middle + 1, self.high)
        while self.low >> 40 == self.high >> 40:
            byte = self.data[self.taken] if self.taken < len(self.data) else 0
            self.taken += 1
            self.value = (self.value << 8 & TOP) + byte
            self.low, self.high = self.low << 8 & TOP, (self.high << 8 & TOP) + 255
        return bit


class Prediction:
    def __init__(self):
        self.p, self.age = 1 << 21, 0

    def learn(self, y):
        self.p += ((y * (1 << 22) - y - self.p) * ((65536 + self.age // 2 + 1) // (self.age + 2))) >> 16
        self.age = min(self.age + 1, 250)


def levels(data, rows, cols, dependent):
    """The matrix of levels of a stream, as rows."""
    squash, stretch = squash_and_stretch()
    bits, known = Bits(data), {}
    weights = [[13107] * 7 for _ in range(15)]
    found = [[0] * cols for _ in range(rows)]
    row_mean, column_mean = [256] * rows, 256

    def simple(*context):
        prediction = known.setdefault(context, Prediction())
        y = bits.next(min(max(prediction.p >> 6, 32), 65504))
        prediction.learn(y)
        return y

    def at(i, j):
        return found[i][j] if 0 <= i < rows and 0 <= j < cols else 0

    def sign(x):
        return (x > 0) - (x < 0)

    def kind(mean):
        q = mean >> 4
        o = q.bit_length() - 1
        return 0 if q < 2 else min(2 * o - 1 + (q >> (o - 1)) % 2, 15)

    for j in range(cols):
        state = 0
        for i in range(rows):
            a1, a2, l1, l2, u, v = (
                abs(at(*place))
                for place in ((i - 1, j), (i - 2, j), (i, j - 1), (i, j - 2), (i - 1, j - 1), (i + 1, j - 1))
            )
            c = (min(a1, 2) * 3 + min(l1, 2)) * 3 + min(min(u, 2) + min(v, 2), 2)
            e = 2 * (min(a1, 4) + min(l1, 4)) + min(a2, 3) + min(l2, 3) + min(u, 3) + min(v, 3)
            e = min(e * 3 // 4, 15)
            g, row, column = int(state >= 4), kind(row_mean[i]), kind(column_mean)
            size, negative = 0, 0
            for d in range(15):
                t = g if d else state
                contexts = [
                    (1, t, d, negative), (2, t, d, c), (3, t, d, e), (4, g, d, row, column), (5, g, d, column, e),
                    (6, i, min(d, 2)), (7, j, min(d, 2)),
                ]  # fmt: skip
                predictions = [known.setdefault(context, Prediction()) for context in contexts]
                x = [stretch[prediction.p >> 10] for prediction in predictions]
                dot = sum(w * odds for w, odds in zip(weights[d], x, strict=True)) >> 16
                p = squash[min(max(dot, -2047), 2047) + 2047]
                y = bits.next(p)
                error = ((y * 65536 - p) * 14) >> 4
                weights[d] = [w + ((odds * error + 32768) >> 16) for w, odds in zip(weights[d], x, strict=True)]
                for prediction in predictions:
                    prediction.learn(y)
                if not y:
                    break
                size = d + 1
                if d == 0:
                    negative = simple("sign", g, sign(at(i - 1, j)), sign(at(i, j - 1)))
            if size == 15:
                n = 0
                while n < 40 and simple("digits", n):
                    n += 1
                b = 1
                for _ in range(n):
                    b = 2 * b + bits.next(1 << 15)
                size = 14 + b
            found[i][j] = -size if negative else size
            row_mean[i] += (min(size, 31) * 1024 - row_mean[i]) >> 4
            column_mean += (min(size, 31) * 1024 - column_mean) >> 5
            if dependent:
                state = NEXT[state][found[i][j] % 2]
    return found


def integers(matrix, dependent):
    """Integers of levels."""
    if not dependent:
        return matrix
    out, state = [], [0] * (len(matrix[0]) if matrix else 0)
    for row in matrix:
        out.append([2 * k - (s >= 4) * ((k > 0) - (k < 0)) for k, s in zip(row, state, strict=True)])
        state = [NEXT[s][k % 2] for k, s in zip(row, state, strict=True)]
    return out


def alphabet(values, first, used, pruned):
    """Integer to index."""
    if used is not None:
        return {first + place: i for i, place in enumerate(place for place, bit in enumerate(used) if bit == "1")}
    if pruned:
        below = sum(value < 0 for value in values)
        return {i - below if value < 0 else i - below + 1: i for i, value in enumerate(values)}
    nearest = min(range(len(values)), key=lambda i: (abs(values[i]), i)) if values else 0
    return {i - nearest: i for i in range(len(values))}


def block_shapes(shape, most):
    rows, cols = (shape[0] if shape else 1), 1
    for axis in shape[1:]:
        cols *= axis
    found = []
    if cols > most:
        for _ in range(rows):
            found += [(1, min(most, cols - begin)) for begin in range(0, cols, most)]
    elif cols:
        step = most // cols
        found = [(min(step, rows - begin), cols) for begin in range(0, rows, step)]
    return found
