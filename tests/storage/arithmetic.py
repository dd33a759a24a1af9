"""Arithmetic coding by frequencies after FORMAT.md, in plain Python, apart from the package's."""

from bisect import bisect_right
from itertools import accumulate


def roots(bits, count):
    """The roots of a code table, which they fill."""
    found, at, mean, last = [], 0, 16, 0
    for _ in range(count):
        o = 0
        while mean >> (o + 5):
            o += 1
        n = bits.index("0", at) - at
        at += n + 1
        value = int("1" + bits[at : at + n + o], 2) - (1 << o)
        at += n + o
        last += (value + 1) // 2 if value % 2 else -(value // 2)
        mean += int((16 * value - mean) / 4)
        found.append(last)
    assert at == len(bits)
    return found


def frequencies(root):
    if not root:
        return []
    used, squares = sum(map(bool, root)), sum(t * t for t in root)
    found = [(1 + t * t * (2**24 - used) // squares) if t else 0 for t in root]
    found[root.index(max(root))] += 2**24 - sum(found)
    return found


def symbols(data, frequency, count):
    if not count or sum(map(bool, frequency)) == 1:
        assert not data
        return [next((i for i, f in enumerate(frequency) if f), 0)] * count
    lanes = 4 if count >= 2**18 else 1
    states = [int.from_bytes(data[8 * i : 8 * i + 8], "little") for i in range(lanes)]
    at, ends, found = 8 * lanes, list(accumulate(frequency)), []
    for i in range(count):
        state = states[i % lanes]
        slot = state % 2**24
        symbol = bisect_right(ends, slot)
        state = frequency[symbol] * (state >> 24) + slot - (ends[symbol] - frequency[symbol])
        if state < 2**31:
            state = state * 2**32 + int.from_bytes(data[at : at + 4], "little")
            at += 4
        states[i % lanes] = state
        found.append(symbol)
    assert at == len(data)
    assert states == [2**31] * lanes
    return found
