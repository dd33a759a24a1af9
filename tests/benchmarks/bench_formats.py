"""Block formats against the libraries that define them: encoding to bytes, decoding from bytes, search for scales.

python -m tests.benchmarks formats
"""

import sys
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from nbquant.quantization.blocks import formats
from nbquant.quantization.blocks.block_format import BlockFormat
from tests.benchmarks import options
from tests.benchmarks.turns import one_thread, take_turns

WEIGHTS = (2_000, 10_240)  # 2·10⁷
SMOKE = (8, 1_024)

Codec = tuple[Callable[[], Any], Callable[[], Any]]
"""Encode all weights; decode what was encoded."""


def gguf_codec(name: str, weight: np.ndarray, data: np.ndarray) -> Codec | None:
    """gguf's numpy; for some formats it only decodes."""
    import gguf

    kind = gguf.GGMLQuantizationType[name.removesuffix("_gguf").upper()]
    rows = data.reshape(len(weight), -1)
    return lambda: gguf.quantize(weight, kind), lambda: gguf.dequantize(rows, kind)


def bitsandbytes_codec(name: str, weight: np.ndarray, data: np.ndarray) -> Codec | None:
    """bitsandbytes on the CPU."""
    import bitsandbytes.functional as bnb

    tensor = torch.from_numpy(weight)

    def encode() -> Any:
        return bnb.quantize_4bit(tensor, quant_type=name[:3], compress_statistics="double" in name)

    packed, state = encode()
    return encode, lambda: bnb.dequantize_4bit(packed, state)


def torchao_codec(name: str, weight: np.ndarray, data: np.ndarray) -> Codec | None:
    """torchao's int8 tensor."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    def encode() -> Any:
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        layer.weight = torch.nn.Parameter(torch.from_numpy(weight), requires_grad=False)
        network = torch.nn.Sequential(layer)
        quantize_(network, Int8WeightOnlyConfig())
        return network[0].weight

    encoded = encode()
    return encode, lambda: encoded.dequantize()


PEERS: Mapping[str, Callable[[str, np.ndarray, np.ndarray], Codec | None]] = {
    "gguf": gguf_codec,
    "bitsandbytes": bitsandbytes_codec,
    "torchao": torchao_codec,
}


LARGE_PEERS = ("bitsandbytes", "torchao")


def peer_of(block_format: BlockFormat) -> str | None:
    """Library that is measured beside a format, if it is installed."""
    name = block_format.library.split()[0].replace("ggml", "gguf")
    return name if name in PEERS and options.find_spec(name) is not None else None


def ours(block_format: BlockFormat, weight: np.ndarray, search: bool = False) -> Callable[[], Any]:
    def encode() -> Any:
        if block_format.layout is not None and block_format.layout.fields:
            return block_format.encode_bytes(weight, search=search)
        codes = block_format.encode(weight, search=search)
        return codes if block_format.layout is None else block_format.pack(codes)

    return encode


def measure(block_format: BlockFormat, weight: np.ndarray, rounds: int) -> None:
    """Print nanoseconds a weight, and how many times as fast as the library ours is."""
    codes = block_format.encode(weight)
    data = np.zeros(0, np.uint8) if block_format.layout is None else block_format.pack(codes)
    parts = {part.name: part.values for part in codes.parts}

    def decode() -> np.ndarray:
        if block_format.layout is None:
            return block_format.decode(codes)
        return block_format.decode_bytes(data, codes.shape, parts)

    peer = peer_of(block_format)
    codec = PEERS[peer](block_format.name, weight, data) if peer else None
    encoders, decoders = {"ours": ours(block_format, weight)}, {"ours": decode}
    if codec is not None:
        decoders[str(peer)] = codec[1]
        try:
            codec[0]()
            encoders[str(peer)] = codec[0]
        except NotImplementedError:
            pass
    encoders["search"] = ours(block_format, weight, search=True)
    encoded, decoded = take_turns(encoders, rounds), take_turns(decoders, rounds)

    def ns(measured: Any) -> float:
        return float(measured.ms * 1e6 / weight.size)

    def cell(of: Mapping[str, Any]) -> str:
        if str(peer) not in of:
            return f"{ns(of['ours']):8.2f}{'':>8}{'':>9}"
        return f"{ns(of['ours']):8.2f}{ns(of[str(peer)]):8.2f}{ns(of[str(peer)]) / ns(of['ours']):8.1f}x"

    search = ns(encoded["search"])
    print(
        f"{block_format.name:15}{peer or '':13}{cell(encoded)}{cell(decoded)}{search:9.1f}"
        f"{search / ns(encoded['ours']):8.1f}x",
        flush=True,
    )


def main(argv: list[str]) -> None:
    chosen = options.parse(argv, __doc__, rounds=5)
    if chosen is None:
        return
    options.installed("gguf")
    for peer in LARGE_PEERS:
        if options.find_spec(peer) is None:
            print(f"left out: {peer}, which no extra installs (pip install {peer})")
    weight = np.random.default_rng(0).standard_normal(SMOKE if chosen.smoke else WEIGHTS).astype(np.float32)
    weight *= np.float32(0.02)
    print(f"{weight.size} Gaussian weights, ns a weight of CPU time of one thread, medians of {chosen.rounds} in turn")
    heads = ("encode", "library", "faster", "decode", "library", "faster", "search", "/ encode")
    print(" " * 27 + "".join(f"{head:>9}" for head in heads))
    start = time.process_time()
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block_format in formats.BLOCK_FORMATS:
            measure(block_format, weight, chosen.rounds)
    print(f"{time.process_time() - start:.0f} s of CPU time in all")


if __name__ == "__main__":
    main(sys.argv[1:])
