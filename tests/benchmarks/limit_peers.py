"""Peers that want an older numpy than nbquant has, run by a Python of their own: see bench_limit.py.

PYTHON limit_peers.py WEIGHTS.safetensors SENSITIVITIES.safetensors SETTINGS.json FOLDER

compresses and restores the weights once for each setting; FOLDER/i.safetensors is what setting i restored, and a line
of JSON on standard output tells its bytes.
"""

import contextlib
import io
import json
import logging
import sys
import warnings
import zlib
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import torch
from safetensors.torch import load_file, save_file


def main(weights: str, sensitivities: str, settings: str, folder: str) -> None:
    state, h = load_file(weights), load_file(sensitivities)
    for i, setting in enumerate(json.loads(Path(settings).read_text())):
        peer = setting.pop("peer")
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            size, restored = {"nncodec": nncodec, "coremltools": coremltools}[peer](state, h, **setting)
        path = Path(folder) / f"{i}.safetensors"
        save_file({name: value.contiguous() for name, value in restored.items()}, path)
        print(json.dumps({"setting": i, "bytes": size}), flush=True)


def nncodec(state: dict, h: dict, **setting: object) -> tuple[int, dict]:
    """The standard codec of MPEG-7 part 17 (ISO/IEC 15938-17): a bitstream, and what it decodes to."""
    for name in ("", ".datasets", ".transforms", ".transforms.functional", ".models", ".io"):
        sys.modules.setdefault(f"torchvision{name}", MagicMock())  # for its data sets, which nobody asks for here
    from nncodec import nnc

    arrays = {name: value.numpy() for name, value in state.items() if value.is_floating_point()}
    path = Path("peer.nnc")
    nnc.compress(arrays, bitstream_path=str(path), **setting)
    restored = nnc.decompress(str(path))
    kept = {name: value for name, value in state.items() if not value.is_floating_point()}
    size = path.stat().st_size + sum(value.numel() * value.element_size() for value in kept.values())
    found = {name: torch.from_numpy(np.asarray(value)).reshape(state[name].shape) for name, value in restored.items()}
    return size, kept | {name: value.to(state[name].dtype) for name, value in found.items()}


def coremltools(state: dict, h: dict, bits: int, sensitive: bool) -> tuple[int, dict]:
    """Palettes of 2^bits values a tensor, indices packed or deflated, whichever is shorter; all else as it is."""
    from coremltools.optimize.torch import palettization as p

    names = [name for name, value in state.items() if value.ndim > 1]
    layers = [torch.nn.Linear(state[n][0].numel(), len(state[n]), bias=False) for n in names]
    model = torch.nn.Sequential(*layers)
    for layer, name in zip(layers, names, strict=True):
        layer.weight.data = state[name].reshape(len(state[name]), -1).clone()
    options = {"global_config": {"n_bits": bits}}
    if sensitive:
        found = {f"{i}.weight": h[n].reshape(len(h[n]), -1) for i, n in enumerate(names)}
        torch.save(found, "sensitivity.pt")
        palettizer = p.SKMPalettizer(model, p.SKMPalettizerConfig.from_dict(options))
        made = palettizer.compress(sensitivity_path="sensitivity.pt", num_kmeans_workers=1)
    else:
        options["global_config"]["granularity"] = "per_tensor"
        palettizer = p.PostTrainingPalettizer(model, p.PostTrainingPalettizerConfig.from_dict(options))
        made = palettizer.compress(num_kmeans_workers=1)
    restored, size = dict(state), 0
    for layer, name in zip(made, names, strict=True):
        restored[name] = layer.weight.detach().reshape(state[name].shape)
        palette, index = torch.unique(restored[name], return_inverse=True)
        deflated = len(zlib.compress(index.to(torch.uint8).numpy().tobytes(), 9))
        size += min(deflated, -(-bits * index.numel() // 8)) + 4 * len(palette)
    return size + sum(v.numel() * v.element_size() for n, v in state.items() if n not in names), restored


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    main(*sys.argv[1:])
