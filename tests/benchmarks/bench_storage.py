"""Writing and reading .nbq files against zstd and DeepCABAC on the same indices: in one run, taking turns.

python -m tests.benchmarks storage

From a quantized tensor to bytes, and from bytes to float32 weights. Ours is the whole way, checksums and a file that is
forced to the disk included; a peer packs the indices into memory, and its decoding ends with the look-up in the
codebook. nncodec asks for an older NumPy than ours and for torchvision, so it is no part of the bench extra: for its
row, ``pip install --no-deps nncodec`` (it compiles C++).
"""

import importlib.util
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import nbquant as nq
from nbquant.coding.entropy import entropy
from nbquant.quantization.quantized import Quantized
from tests.benchmarks import options, synthetic
from tests.benchmarks.turns import one_thread, take_turns

LEVELS = 32
DENSITY = 0.1

Codec = tuple[Callable[[], Any], Callable[[Any], Tensor | np.ndarray], Callable[[Any], int]]


def ours(quantized: Quantized, folder: Path) -> Codec:
    path = folder / "weights.nbq"

    def encode() -> Path:
        nq.save(quantized, path, progress=False)
        return path

    return encode, lambda path: nq.load(path).tensor("weight"), lambda path: path.stat().st_size


def zstd(indices: np.ndarray, values: np.ndarray, level: int) -> Codec:
    import zstandard

    packer = zstandard.ZstdCompressor(level=level, write_checksum=True)

    def decode(data: bytes) -> np.ndarray:
        return values.take(np.frombuffer(zstandard.ZstdDecompressor().decompress(data), np.uint8))

    return lambda: packer.compress(indices), decode, len


def deep_cabac(coder: Any, signed: np.ndarray, values: np.ndarray, zero: int) -> Codec:
    """The coder of the NNR standard: contexts adapt, so that zeros need no positions."""
    off = coder.HdspMode.AlwaysOff, np.zeros(2, np.int8)
    none = np.zeros(1, np.int32)

    def encode() -> bytes:
        encoder = coder.Encoder()
        encoder.initCtxModels(10, 0)
        encoder.encodeLayer(signed, 0, 0, 0, 0, 0, none, *off, 0, 0)
        return encoder.finish().tobytes()

    def decode(data: bytes) -> np.ndarray:
        decoder = coder.Decoder()
        decoder.setStream(np.frombuffer(data, np.uint8))
        decoder.initCtxModels(10)
        found = np.zeros_like(signed)
        decoder.decodeLayer(found, 0, 0, 0, 0, *off, 0, 0)
        decoder.finish()
        return values.take(found + zero)

    return encode, decode, len


def find_deep_cabac() -> Any:
    """nncodec's compiled module by itself, without the package, which imports torchvision; None if it is not there."""
    spec = importlib.util.find_spec("nncodec")
    folders = spec.submodule_search_locations if spec else None
    found = [path for folder in folders or () for path in Path(folder).glob("extensions/deepCABAC*")]
    compiled = [path for path in found if path.suffix in (".so", ".pyd")]
    if not compiled:
        print("skipped: DeepCABAC is not installed (pip install --no-deps nncodec; it compiles C++)")
        return None
    module_spec = importlib.util.spec_from_file_location("deepCABAC", compiled[0])
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module


def compare(title: str, weight: Tensor, rounds: int, coder: Any) -> None:
    """Print rates [million weights a second of CPU time] and sizes."""
    n = weight.numel()
    quantized = nq.KMeans(LEVELS).fit(weight)
    assignment = quantized.tensors["weight"].assignment.numpy()
    values = np.concatenate([quantized.codebook.numpy(), np.zeros(1, np.float32)])  # −1, pruned, is the last
    indices = np.where(assignment < 0, len(values) - 1, assignment).astype(np.uint8)
    zero = int(np.abs(values).argmin())
    # In ascending order around zero, as DeepCABAC expects.
    order = np.argsort(values, kind="stable")
    rank = np.argsort(order, kind="stable")
    signed = (rank[indices] - rank[zero]).astype(np.int32)
    with tempfile.TemporaryDirectory() as folder:
        codecs = {"nbquant file": ours(quantized, Path(folder))}
        if options.installed("zstandard"):
            codecs |= {f"zstandard {level}": zstd(indices, values, level) for level in (1, 3)}
        if coder is not None:
            codecs["DeepCABAC"] = deep_cabac(coder, signed, values[order], int(rank[zero]))
        data = {name: encode() for name, (encode, _, _) in codecs.items()}
        expected = quantized.dequantize()["weight"]
        for name, (_, decode, _) in codecs.items():
            assert torch.equal(torch.as_tensor(decode(data[name])), expected), f"{name} did not restore the weights"
        encoding = take_turns({name: encode for name, (encode, _, _) in codecs.items()}, rounds, warm=False)
        decoding = take_turns({n: lambda n=n: codecs[n][1](data[n]) for n in codecs}, rounds, warm=False)  # type: ignore[misc]
        sizes = {name: size(data[name]) for name, (_, _, size) in codecs.items()}
    counts = np.bincount(indices)
    print(f"\n{f'{title}, H = {entropy(counts):.2f} bit':34}{'encode':>8}{'decode':>8}{'bit/weight':>12}{'size':>8}")
    for name in codecs:
        rate = [n / (1e3 * measured[name].ms) for measured in (encoding, decoding)]
        relative = sizes[name] / sizes["nbquant file"]
        print(f"  {name:32}{rate[0]:8.0f}{rate[1]:8.0f}{8 * sizes[name] / n:12.3f}{relative:7.2f}×", flush=True)


def main(argv: list[str]) -> None:
    chosen = options.parse(argv, __doc__)
    if chosen is None:
        return
    n = 20_000 if chosen.smoke else 61_000_000 if chosen.full else 10_000_000
    print(f"{n:,} weights, {LEVELS} levels; M weights/s of CPU time of one thread, medians of {chosen.rounds} in turn")
    coder = find_deep_cabac()
    weight, _ = synthetic.weights(n)
    with one_thread():
        compare("dense", weight, chosen.rounds, coder)
        kept = torch.rand(n, generator=torch.Generator().manual_seed(0)) < DENSITY
        compare(f"{DENSITY:.0%} kept", weight * kept, chosen.rounds, coder)


if __name__ == "__main__":
    main(sys.argv[1:])
