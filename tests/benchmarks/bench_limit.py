"""Bytes against accuracy of whole files: nbquant beside nncodec, coremltools' palettizers and zstd, no fine-tuning.

Every row is a file that was written, read again and measured on all test images. Summed up twice: the largest ratio at
which at most half a point of accuracy is lost, and the Bjøntegaard difference, the mean of log(bytes / bytes of
nbquant) over the accuracies that both reach. Curves of accuracy are neither smooth nor monotone, so that straight lines
through their hull (the fewest bytes at which an accuracy is reached) stand for Bjøntegaard's cubics.

The peers want an older numpy: they are installed into an environment of their own beside this one, the first time.

python -m tests.benchmarks limit
"""

import copy
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import nbquant as nq
from tests.benchmarks import options

PEERS = ("nncodec==2.1.3", "coremltools==9.0", "safetensors", "numpy<2", f"torch=={torch.__version__.split('+')[0]}")
LOST = 0.005  # of accuracy
BEST = [
    {"row_skipping": skipping, "lambda_scale": scale} for skipping in (False, True) for scale in (0.0, 0.2, 0.4, 0.7)
]
PALETTES = [{"bits": bits, "sensitive": sensitive} for bits in (1, 2, 3, 4, 6) for sensitive in (False, True)]
ZSTD_BITS = (2, 3, 4, 5, 6, 8)
RATIOS: dict[str, dict[str, Sequence[float]]] = {
    "lenet5-fashion": {"ecsq": (12, 15, 18, 21), "trellis": (14, 18, 22, 27)},
    "lenet5-fashion-pruned": {"ecsq": (40, 45, 50, 55), "trellis": (42, 50, 58)},
    "resnet8-fashion": {"ecsq": (6, 8, 10), "trellis": (8, 10, 12)},
}
LMBDAS: dict[str, Sequence[float]] = {  # of error feedback, which takes longer to search a ratio
    "lenet5-fashion": (1.2e-9, 2.5e-9, 5e-9, 7.4e-9, 9e-9, 1.1e-8),
    "lenet5-fashion-pruned": (6e-9, 1.2e-8, 1.9e-8, 2.5e-8, 3e-8, 3.8e-8),
    "resnet8-fashion": (3.5e-9, 8e-9, 1.5e-8, 2e-8, 2.4e-8, 3e-8),
}
QPS = {"lenet5-fashion": (-32, -28, -25, -23, -22, -21, -20, -18)}
OTHER_QPS = (-38, -34, -31, -29, -27, -25, -23, -21)

Curve = list[tuple[int, float]]
"""Bytes and accuracy of each file."""


def main(argv: list[str]) -> None:
    chosen = options.parse(argv, __doc__)
    if chosen is None:
        return
    python = None if chosen.smoke else _peers()
    for name in list(RATIOS)[: 1 if chosen.smoke else None]:
        model, data = nq.zoo.load(name)
        images = data.calibration if chosen.smoke else data.test
        h = nq.sensitivity(model, data.calibration, damping=0.1, progress=False)
        original = nq.evaluate(model, images, progress=False)
        source = sum(v.numel() * v.element_size() for v in model.state_dict().values())
        print(f"\n{name}: {source:,} bytes, {original}")
        curves: dict[str, Curve] = {}

        def add(label: str, size: int, state: dict[str, Tensor], model: nn.Module = model, **known: object) -> None:
            restored = _with(model, state)
            accuracy = nq.evaluate(restored, known["images"], progress=False).accuracy or 0.0
            known["curves"].setdefault(label, []).append((size, accuracy))
            ratio = known["source"] / size
            print(f"{label:<26}{size:>9,} B{ratio:>8.2f}×{100 * accuracy:>8.2f} %", flush=True)

        known = {"images": images, "curves": curves, "source": source}
        for label, size, state in _ours(model, data, h, name, chosen.smoke):
            add(label, size, state, **known)
        for label, size, state in _zstd(model):
            add(label, size, state, **known)
        if python is not None:
            for label, size, state in _theirs(python, model, h, QPS.get(name, OTHER_QPS)):
                add(label, size, state, **known)
        _sum_up(curves, source, (original.accuracy or 0.0) - LOST)


def _ours(model: nn.Module, data: object, h: object, name: str, smoke: bool) -> Iterator[tuple[str, int, dict]]:
    calibration = nq.calibrate(model, data.calibration if smoke else data.train, progress=False)
    selection = nq.select(model, sensitivity=h, calibration=calibration)
    jobs = [(method, {"ratio": ratio, "file_of": model}) for method, some in RATIOS[name].items() for ratio in some]
    jobs += [("feedback", {"lmbda": lmbda}) for lmbda in LMBDAS[name]]
    with tempfile.TemporaryDirectory() as folder:
        for method, target in jobs[: 1 if smoke else None]:
            path = Path(folder) / "one.nbq"
            coding = "huffman" if method == "ecsq" else "context"
            made = nq.fit(selection, method, **target, coding=coding, progress=False)
            nq.save(made, path, model, progress=False)
            yield f"nbquant, {method}", path.stat().st_size, nq.load(path).state_dict(progress=False)


def _zstd(model: nn.Module) -> Iterator[tuple[str, int, dict]]:
    """Weights rounded to a grid of 2^bits values a tensor, a byte each, in one frame; all else as it is."""
    if not options.installed("zstandard"):
        return
    import zstandard

    state = model.state_dict()
    for bits in ZSTD_BITS:
        packed, restored = b"", dict(state)
        for name, value in state.items():
            if value.ndim > 1:
                step = float(value.abs().max()) / (2 ** (bits - 1) - 0.5)
                index = (value / step).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
                restored[name] = index * step
                packed += index.to(torch.int8).numpy().tobytes() + np.float32(step).tobytes()
            else:
                packed += value.numpy().tobytes()
        yield "uniform, zstd", len(zstandard.ZstdCompressor(22).compress(packed)), restored


def _theirs(python: Path, model: nn.Module, h: object, qps: Sequence[int]) -> Iterator[tuple[str, int, dict]]:
    settings = [("nncodec, default", {"peer": "nncodec", "qp": qp}) for qp in qps]
    settings += [("nncodec, best", {"peer": "nncodec", "qp": qp, **more}) for more in BEST for qp in qps]
    settings += [("coremltools", {"peer": "coremltools", **palette}) for palette in PALETTES]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "weights.safetensors")
        save_file({k: h[k].contiguous() for k, _ in model.named_parameters()}, folder / "h.safetensors")
        (folder / "settings.json").write_text(json.dumps([setting for _, setting in settings]))
        files = ["weights.safetensors", "h.safetensors", "settings.json", "."]
        script = Path(__file__).with_name("limit_peers.py")
        done = subprocess.run([python, script, *files], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            print(f"skipped: the peers failed with {done.stderr[-500:]}")
        for line in done.stdout.splitlines():
            found = json.loads(line)
            i = found["setting"]
            yield settings[i][0], found["bytes"], load_file(folder / f"{i}.safetensors")


def _peers() -> Path | None:
    """The Python that has the peers; None where they cannot be installed."""
    folder = Path(sys.prefix) / "peers"
    python = folder / "bin" / "python"
    if not (folder / "made").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        done = subprocess.run([python, "-m", "pip", "install", "--quiet", *PEERS], capture_output=True, text=True)
        if done.returncode:
            print(f"skipped: the peers cannot be installed: {done.stderr[-500:]}")
            return None
        (folder / "made").touch()
    return python


def _with(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    restored = copy.deepcopy(model)
    restored.load_state_dict(state)
    return restored


def _sum_up(curves: dict[str, Curve], source: int, least: float) -> None:
    best = _hull(curves.get("nbquant, feedback", []))
    print(f"{'':<26}{'ratio at 0.5 lost':>18}{'bytes of nbquant, feedback, at equal accuracy':>48}")
    for label, curve in curves.items():
        sizes = [size for size, accuracy in curve if accuracy >= least]
        ratio = f"{source / min(sizes):.2f}×" if sizes else "–"
        difference = bjontegaard(best, _hull(curve))
        share = "–" if difference is None else f"{100 * np.expm1(difference):+.1f} %"
        print(f"{label:<26}{ratio:>18}{share:>48}")


def _hull(curve: Curve) -> Float[np.ndarray, "p 2"]:
    """log(bytes) and accuracy of the files that no other beats in both, by rising bytes."""
    kept: list[tuple[float, float]] = []
    for size, accuracy in sorted(curve, key=lambda row: (row[0], -row[1])):
        if not kept or accuracy > kept[-1][1]:
            kept.append((float(np.log(size)), accuracy))
    return np.array(kept).reshape(-1, 2)


def bjontegaard(ours: Float[np.ndarray, "p 2"], theirs: Float[np.ndarray, "q 2"]) -> float | None:
    """Mean of log(bytes of ours / bytes of theirs) over the accuracies that both reach; None if there are none."""
    if not len(ours) or not len(theirs):
        return None
    low, high = max(ours[0, 1], theirs[0, 1]), min(ours[-1, 1], theirs[-1, 1])
    if low >= high:
        return None
    at = np.linspace(low, high, 1001)
    return float(np.mean(np.interp(at, ours[:, 1], ours[:, 0]) - np.interp(at, theirs[:, 1], theirs[:, 0])))


if __name__ == "__main__":
    main(sys.argv[1:])
