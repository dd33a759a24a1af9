"""Huffman coding against zlib's Huffman-only mode and constriction's range coder: in one run, taking turns.

python -m tests.benchmarks huffman
"""

import sys
import time
import zlib
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from nbquant.coding.entropy import entropy
from nbquant.coding.huffman import HuffmanCode, codeword_lengths, symbol_counts
from tests.benchmarks import options

SYMBOLS = 5_000_000

Codec = tuple[Callable[[np.ndarray], Any], Callable[[Any, int], np.ndarray], Callable[[Any], int]]


def symbols_of(levels: int, bits: float, n: int) -> np.ndarray:
    """Two-sided geometric symbols, about as many bits of entropy as asked for: what a quantized weight looks like."""
    distance = np.abs(np.arange(levels) - levels // 2)
    low, high = 0.001, 10.0
    for _ in range(60):
        slope = (low * high) ** 0.5
        p = np.exp(-slope * distance)
        p /= p.sum()
        low, high = (slope, high) if -(p * np.log2(p + 1e-300)).sum() > bits else (low, slope)
    return np.random.default_rng(0).choice(levels, n, p=p).astype(np.uint8)


def ours(counts: np.ndarray) -> Codec:
    """Code built anew each time, as zlib does."""

    def encode(symbols: np.ndarray) -> bytes:
        return HuffmanCode.from_counts(symbol_counts(symbols, len(counts))).encode(symbols)

    def decode(data: bytes, n: int) -> np.ndarray:
        return HuffmanCode.from_counts(counts).decode(data, n)

    return encode, decode, len


def ours_prepared(counts: np.ndarray) -> Codec:
    """Code given."""
    code = HuffmanCode.from_counts(counts)
    return code.encode, code.decode, len


def zlib_huffman_only(counts: np.ndarray) -> Codec:
    """Dynamic Huffman blocks without matches."""

    def encode(symbols: np.ndarray) -> bytes:
        stream = zlib.compressobj(strategy=zlib.Z_HUFFMAN_ONLY, wbits=-15)
        return stream.compress(symbols) + stream.flush()

    def decode(data: bytes, n: int) -> np.ndarray:
        return np.frombuffer(zlib.decompress(data, wbits=-15, bufsize=n), np.uint8)

    return encode, decode, len


def constriction_range(counts: np.ndarray) -> Codec:
    """Range coder with the counts as its model."""
    import constriction

    model = constriction.stream.model.Categorical(counts / counts.sum(), perfect=False)

    def encode(symbols: np.ndarray) -> np.ndarray:
        encoder = constriction.stream.queue.RangeEncoder()
        encoder.encode(symbols.astype(np.int32), model)
        return encoder.get_compressed()

    def decode(data: np.ndarray, n: int) -> np.ndarray:
        return constriction.stream.queue.RangeDecoder(data).decode(model, n)

    return encode, decode, lambda data: data.nbytes


def coders(levels: int, bits: float, n: int, rounds: int) -> None:
    """Print rates [million symbols a second of CPU time] and sizes over Shannon's bound."""
    symbols = symbols_of(levels, bits, n)
    counts = np.bincount(symbols, minlength=levels)
    makers = [ours, ours_prepared, zlib_huffman_only]
    if options.installed("constriction"):
        makers.append(constriction_range)
    codecs = {make.__name__: make(counts) for make in makers}
    seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in codecs}
    size = {}
    for turn in range(rounds + 1):  # the first compiles and warms
        for name, (encode, decode, bytes_of) in codecs.items():
            start = time.process_time()
            data = encode(symbols)
            middle = time.process_time()
            decoded = decode(data, n)
            end = time.process_time()
            if turn == 0:
                np.testing.assert_array_equal(decoded, symbols)
                size[name] = bytes_of(data)
            else:
                seconds[name][0].append(middle - start)
                seconds[name][1].append(end - middle)
    h = entropy(counts)
    print(f"\n{f'{levels}-ary, H = {h:.2f} bit':22}{'encode':>9}{'decode':>9}{'size / H':>10}")
    rate = {name: [n / median(times) / 1e6 for times in both] for name, both in seconds.items()}
    for name, (encode_rate, decode_rate) in rate.items():
        print(f"  {name:20}{encode_rate:9.0f}{decode_rate:9.0f}{size[name] * 8 / (n * h):10.4f}")
    ratios = [a / b for a, b in zip(rate["ours"], rate["zlib_huffman_only"], strict=True)]
    print(f"  {'ours / zlib':20}{ratios[0]:8.1f}x{ratios[1]:8.1f}x", flush=True)


def lengths(calls: int) -> None:
    """Print what a code costs to find."""
    print("\ncodeword_lengths, µs a call")
    for k in (16, 64, 256, 1024, 4096):
        counts = np.random.default_rng(k).geometric(1e-4, k)
        times = []
        for _ in range(calls):
            start = time.perf_counter()
            codeword_lengths(counts)
            times.append(time.perf_counter() - start)
        print(f"  k = {k:<6}{median(times) * 1e6:9.1f}")


def main(argv: list[str]) -> None:
    chosen = options.parse(argv, __doc__, rounds=9)
    if chosen is None:
        return
    n = 20_000 if chosen.smoke else SYMBOLS
    print(f"{n} symbols, M symbols/s of CPU time of one thread, medians of {chosen.rounds} rounds in turn")
    for levels, bits in ((32, 2.2), (32, 0.7), (256, 5.0)):
        coders(levels, bits, n, chosen.rounds)
    lengths(3 if chosen.smoke else 200)


if __name__ == "__main__":
    main(sys.argv[1:])
