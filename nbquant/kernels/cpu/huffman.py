"""Kernels of Huffman coding: codeword lengths, and bit streams through 64-bit words.

Symbols and streams may contain anything and are checked here, by status; complete codes and sufficient arrays are
ensured by :mod:`nbquant.coding.huffman`, which also makes the error messages. A stream starts at a word's highest bit.
One module, as encoder and decoder share the layout of words.
"""

import numpy as np
from jaxtyping import Int, Int64, Integer, UInt64

from nbquant.kernels.compiled import compiled

WORD = 64
ONE = np.uint64(1)
NO_CODEWORD = np.uint64(1 << 20)

OK, TRUNCATED, NOT_A_CODEWORD = 0, 1, 2
NEGATIVE_COUNT, ALL_ZERO, TOO_LARGE, TOO_MANY = 1, 2, 3, 4


@compiled()
def count_symbols(symbols: Integer[np.ndarray, " n"], counts: Int64[np.ndarray, "4 k"]) -> bool:
    """Count symbols in four interleaved histograms, as equal neighbours would stall; False if one is out of range."""
    k = np.uint64(counts.shape[1])
    n = np.uint64(len(symbols))
    i = np.uint64(0)
    while i + np.uint64(4) <= n:
        a, b = np.uint64(symbols[i]), np.uint64(symbols[i + ONE])  # a negative one becomes huge
        c, d = np.uint64(symbols[i + np.uint64(2)]), np.uint64(symbols[i + np.uint64(3)])
        if max(a, b, c, d) >= k:
            return False
        counts[0, a] += 1
        counts[1, b] += 1
        counts[2, c] += 1
        counts[3, d] += 1
        i += np.uint64(4)
    while i < n:
        a = np.uint64(symbols[i])
        if a >= k:
            return False
        counts[0, a] += 1
        i += ONE
    return True


@compiled()
def code_lengths(counts: Integer[np.ndarray, " k"], limit: int) -> tuple[Int64[np.ndarray, " k"], int]:
    """Compute the lengths of an optimal prefix code with codewords of at most ``limit`` bits.

    Two queues, one of leaves and one of merged nodes, both in ascending order (van Leeuwen 1976); on a tie the leaf
    goes first, which among all optimal codes has the least maximum and the least sum of lengths (Schwartz 1964). Of
    equal counts the lower index gets the shorter codeword. Package-merge (Larmore and Hirschberg 1990) takes over
    where the tree is deeper than the limit.

    Args:
        counts: Non-negative counts.
        limit: Longest codeword allowed [bit].

    Returns:
        Lengths [bit], 0 for a zero count and 1 for the only used symbol; and a status, other than ``OK`` where the
        counts do not allow such a code.
    """
    k = len(counts)
    lengths = np.zeros(k, np.int64)
    used = 0
    total = 0.0
    for j in range(k):
        if counts[j] < 0:
            return lengths, NEGATIVE_COUNT
        if counts[j] > 0:
            used += 1
            total += counts[j]
    if used == 0:
        return lengths, ALL_ZERO
    if total >= 2.0**56:
        return lengths, TOO_LARGE
    if limit < 63 and used > 1 << limit:
        return lengths, TOO_MANY

    # From the last index to the first, so that the stable sort leaves the lower index last among equals.
    symbol = np.empty(used, np.int64)
    i = 0
    for j in range(k - 1, -1, -1):
        if counts[j] > 0:
            symbol[i] = j
            i += 1
    symbol = _sorted_by_count(symbol, counts)
    leaf = np.empty(used, np.int64)
    for i in range(used):
        leaf[i] = counts[symbol[i]]
    if used == 1:
        lengths[symbol[0]] = 1
        return lengths, OK

    depth = _tree_depths(leaf)
    if depth[0] > limit:
        depth = _package_merge(leaf, limit)
    for i in range(used):
        lengths[symbol[i]] = depth[i]
    return lengths, OK


@compiled()
def _sorted_by_count(symbol: Int64[np.ndarray, " k"], counts: Integer[np.ndarray, " k"]) -> Int64[np.ndarray, " k"]:
    """Merge sort, stable; numba takes two seconds to compile numpy's."""
    n = len(symbol)
    other = np.empty(n, np.int64)
    run = 1
    while run < n:
        for begin in range(0, n, 2 * run):
            i, j = begin, min(begin + run, n)
            middle, end = j, min(begin + 2 * run, n)
            for place in range(begin, end):
                if j == end or (i < middle and counts[symbol[i]] <= counts[symbol[j]]):
                    other[place] = symbol[i]
                    i += 1
                else:
                    other[place] = symbol[j]
                    j += 1
        symbol, other = other, symbol
        run *= 2
    return symbol


@compiled()
def _tree_depths(leaf: Int64[np.ndarray, " k"]) -> Int64[np.ndarray, " k"]:
    """Depths of the leaves of the Huffman tree; ``leaf`` ascends, at least two."""
    k = len(leaf)
    node = np.empty(k - 1, np.int64)
    parent = np.empty(2 * k - 1, np.int64)  # leaves first, then nodes
    next_leaf, next_node = 0, 0
    for made in range(k - 1):
        weight = 0
        for _ in range(2):
            if next_leaf < k and (next_node == made or leaf[next_leaf] <= node[next_node]):
                weight += leaf[next_leaf]
                parent[next_leaf] = made
                next_leaf += 1
            else:
                weight += node[next_node]
                parent[k + next_node] = made
                next_node += 1
        node[made] = weight
    node[k - 2] = 0  # from here on, the depth of a node
    for i in range(k - 3, -1, -1):
        node[i] = node[parent[k + i]] + 1
    depth = np.empty(k, np.int64)
    for i in range(k):
        depth[i] = node[parent[i]] + 1
    return depth


@compiled()
def _package_merge(leaf: Int64[np.ndarray, " k"], limit: int) -> Int64[np.ndarray, " k"]:
    """Depths of the best tree no deeper than ``limit``; ``leaf`` ascends, at least two and at most 2**limit."""
    k = len(leaf)
    is_leaf = np.empty((limit, 2 * k), np.bool_)
    current = np.empty(2 * k, np.int64)
    package = np.empty(k, np.int64)
    packages = 0
    size = 0
    for level in range(limit):
        i, j = 0, 0
        size = k + packages
        for place in range(size):
            if j == packages or (i < k and leaf[i] <= package[j]):
                current[place] = leaf[i]
                is_leaf[level, place] = True
                i += 1
            else:
                current[place] = package[j]
                is_leaf[level, place] = False
                j += 1
        packages = size // 2
        for j in range(packages):
            package[j] = current[2 * j] + current[2 * j + 1]
    depth = np.zeros(k, np.int64)
    wanted = 2 * k - 2
    for level in range(limit - 1, -1, -1):
        leaves = 0
        for place in range(wanted):
            if is_leaf[level, place]:
                depth[leaves] += 1
                leaves += 1
        wanted = 2 * (wanted - leaves)
    return depth


@compiled()
def canonical_codewords(lengths: Int[np.ndarray, " k"]) -> UInt64[np.ndarray, " k"]:
    """Compute the canonical codewords, in the low bits, in the order of (length, symbol); 0 where the length is 0."""
    per_length = np.zeros(WORD + 1, np.int64)
    for length in lengths:
        if length > 0:
            per_length[length] += 1
    following = np.zeros(WORD + 1, np.uint64)
    codeword = np.uint64(0)
    for length in range(1, WORD):
        codeword = np.uint64((codeword + np.uint64(per_length[length - 1])) << ONE)
        following[length] = codeword
    codewords = np.zeros(len(lengths), np.uint64)
    for j in range(len(lengths)):
        if lengths[j] > 0:
            codewords[j] = following[lengths[j]]
            following[lengths[j]] += ONE
    return codewords


@compiled()
def encode_words(
    symbols: Integer[np.ndarray, " n"],
    codewords: UInt64[np.ndarray, " k"],
    lengths: UInt64[np.ndarray, " k"],
    longest: int,
    words: UInt64[np.ndarray, " w"],
) -> np.int64:
    """Concatenate codewords into 64-bit words, the last one padded with zeros.

    Groups of four codewords are joined off the critical path, so that the accumulator is updated once per group.

    Args:
        symbols: Symbols to encode.
        codewords: Codewords; padded to a power of two, so that one comparison bounds a whole group.
        lengths: Their lengths [bit], padded likewise; ``NO_CODEWORD`` where there is none.
        longest: The longest length [bit], at most 32.
        words: Output: the stream; at least ``len(symbols) * longest`` bits.

    Returns:
        Number of bits written; -1 if a symbol has no codeword.
    """
    n = np.uint64(len(symbols))
    k = np.uint64(len(lengths))
    word = np.uint64(0)  # filled from the top
    free = np.uint64(WORD)  # always at least 1
    at = np.uint64(0)
    i = np.uint64(0)
    grouped = n & ~np.uint64(3) if longest <= WORD // 4 else np.uint64(0)
    while i < grouped:
        a, b = np.uint64(symbols[i]), np.uint64(symbols[i + ONE])  # a negative one becomes huge
        c, d = np.uint64(symbols[i + np.uint64(2)]), np.uint64(symbols[i + np.uint64(3)])
        if (a | b | c | d) >= k:
            return np.int64(-1)
        ab = (codewords[a] << lengths[b]) | codewords[b]
        cd_length = lengths[c] + lengths[d]
        cd = (codewords[c] << lengths[d]) | codewords[d]
        group = (ab << cd_length) | cd
        length = lengths[a] + lengths[b] + cd_length
        if length < free:
            free -= length
            word |= group << free
        else:
            if length >= NO_CODEWORD:
                return np.int64(-1)
            length -= free  # bits left over for the next word, at most 63
            words[at] = word | (group >> length)
            at += ONE
            free = np.uint64(WORD) - length
            word = (group << ONE) << (free - ONE)
        i += np.uint64(4)
    while i < n:
        a = np.uint64(symbols[i])
        if a >= k:
            return np.int64(-1)
        length = lengths[a]
        if length < free:
            free -= length
            word |= codewords[a] << free
        else:
            if length >= NO_CODEWORD:
                return np.int64(-1)
            length -= free
            words[at] = word | (codewords[a] >> length)
            at += ONE
            free = np.uint64(WORD) - length
            word = (codewords[a] << ONE) << (free - ONE)
        i += ONE
    if free < np.uint64(WORD):
        words[at] = word
    return np.int64(at * np.uint64(WORD) + np.uint64(WORD) - free)


@compiled()
def decode_table(
    codewords: UInt64[np.ndarray, " k"], lengths: Int64[np.ndarray, " k"], bits: int, width: int
) -> UInt64[np.ndarray, " t"]:
    """Compute the decoding table: symbols of the next ``bits`` bits of a stream, as far as they hold whole codewords.

    Args:
        codewords: Canonical codewords.
        lengths: Their lengths [bit].
        bits: Index width of the table [bit], at most 16.
        width: Bits of a symbol in an entry [bit]: 8, 16 or 32 for at most 7, 3 or 1 symbols.

    Returns:
        Entries from the top: 3 bits for the number of symbols (0: the first codeword is longer than ``bits``, or
        invalid), 5 bits for the bits they take, and the symbols, the first lowest.
    """
    size = 1 << bits
    first = np.zeros(size, np.int64)  # symbol + 1
    for j in range(len(lengths)):
        length = np.int64(lengths[j])
        if 0 < length <= bits:
            start = np.int64(codewords[j]) << (bits - length)
            first[start : start + (1 << (bits - length))] = j + 1
    most = 56 // width
    table = np.zeros(size, np.uint64)
    for entry in range(size):
        taken = 0
        packed = np.uint64(0)
        number = 0
        while number < most:
            found = first[(entry << taken) & (size - 1)]
            if found == 0 or taken + np.int64(lengths[found - 1]) > bits:
                break
            packed |= np.uint64(found - 1) << np.uint64(number * width)
            taken += int(lengths[found - 1])
            number += 1
        table[entry] = packed | np.uint64(taken << 56) | (np.uint64(number) << np.uint64(61))
    return table


@compiled()
def _window(words: UInt64[np.ndarray, " w"], position: np.uint64) -> np.uint64:
    """64 bits from ``position`` on; the following word must exist."""
    shift = position & np.uint64(63)
    at = position >> np.uint64(6)
    return (words[at] << shift) | ((words[at + ONE] >> ONE) >> (np.uint64(63) - shift))


@compiled()
def _decode_one(
    window: np.uint64,
    start: UInt64[np.ndarray, " lengths"],
    rank: Int64[np.ndarray, " lengths"],
    ordered: Int64[np.ndarray, " used"],
) -> tuple[int, int]:
    """Symbol and length of the codeword at the top of ``window``; length 0 if there is none."""
    for length in range(1, len(start)):
        offset = np.int64((window >> np.uint64(WORD - length)) - start[length])
        if 0 <= offset < rank[length + 1] - rank[length]:
            return ordered[rank[length] + offset], length
    return 0, 0


@compiled()
def decode_words(
    words: UInt64[np.ndarray, " w"],
    stream_bits: int,
    table: UInt64[np.ndarray, " t"],
    width: int,
    start: UInt64[np.ndarray, " lengths"],
    rank: Int64[np.ndarray, " lengths_1"],
    ordered: Int64[np.ndarray, " used"],
    out: Integer[np.ndarray, " n"],
) -> tuple[int, np.int64, np.int64]:
    """Decode ``len(out)`` symbols.

    Args:
        words: The stream, followed by at least two words of zeros.
        stream_bits: Length of the stream [bit], without that padding.
        table: From :func:`decode_table`.
        width: As in :func:`decode_table`.
        start: First codeword of each length.
        rank: Number of codewords shorter than each length.
        ordered: Symbols in canonical order.
        out: Output: the symbols.

    Returns:
        Status, number of symbols read, and bits read.
    """
    n = np.uint64(len(out))
    bits = np.uint64(0)
    while (ONE << bits) < np.uint64(len(table)):
        bits += ONE
    down = np.uint64(WORD) - bits
    look_ups = WORD // np.int64(bits)
    stream = np.uint64(stream_bits)
    position = np.uint64(0)
    o = np.uint64(0)
    room = np.uint64(8 * look_ups)  # a store may overrun into the place of the next one
    while o + room <= n and position + np.uint64(WORD) <= stream:
        window = _window(words, position)
        escaped = False
        for _ in range(look_ups):
            entry = table[window >> down]
            number = entry >> np.uint64(61)
            if number == 0:
                escaped = True
                break
            if width == 8:  # eight plain stores that the compiler merges
                out[o] = entry & np.uint64(255)
                out[o + np.uint64(1)] = (entry >> np.uint64(8)) & np.uint64(255)
                out[o + np.uint64(2)] = (entry >> np.uint64(16)) & np.uint64(255)
                out[o + np.uint64(3)] = (entry >> np.uint64(24)) & np.uint64(255)
                out[o + np.uint64(4)] = (entry >> np.uint64(32)) & np.uint64(255)
                out[o + np.uint64(5)] = (entry >> np.uint64(40)) & np.uint64(255)
                out[o + np.uint64(6)] = (entry >> np.uint64(48)) & np.uint64(255)
                out[o + np.uint64(7)] = entry >> np.uint64(56)
            elif width == 16:
                out[o] = entry & np.uint64(0xFFFF)
                out[o + np.uint64(1)] = (entry >> np.uint64(16)) & np.uint64(0xFFFF)
                out[o + np.uint64(2)] = (entry >> np.uint64(32)) & np.uint64(0xFFFF)
            else:
                out[o] = entry & np.uint64(0xFFFFFFFF)
            o += number
            taken = (entry >> np.uint64(56)) & np.uint64(31)
            window <<= taken
            position += taken
        if escaped:
            symbol, length = _decode_one(_window(words, position), start, rank, ordered)
            if length == 0:
                return NOT_A_CODEWORD, np.int64(o), np.int64(position)
            if position + np.uint64(length) > stream:
                return TRUNCATED, np.int64(o), np.int64(position)
            out[o] = symbol
            o += ONE
            position += np.uint64(length)
    while o < n:
        if position >= stream:
            return TRUNCATED, np.int64(o), np.int64(position)
        symbol, length = _decode_one(_window(words, position), start, rank, ordered)
        if position + np.uint64(length) > stream:
            return TRUNCATED, np.int64(o), np.int64(position)
        if length == 0:
            return NOT_A_CODEWORD, np.int64(o), np.int64(position)
        out[o] = symbol
        o += ONE
        position += np.uint64(length)
    return OK, np.int64(o), np.int64(position)
