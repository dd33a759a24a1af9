"""A little of everything that runs on kernels, on few weights; as a script it saves what came, and the warnings."""

import pickle
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tests.kernels.samples import DTYPES, draw


def results():
    import nbquant as nq
    from nbquant.coding.huffman import HuffmanCode
    from nbquant.kernels import dispatch

    found = {}
    for dtype in DTYPES:
        w, h = draw(3000, dtype)
        w[::3] = 0
        found[f"histogram {dtype}"] = dispatch.histogram(w, h, 16, 18)
        found[f"gaps {dtype}"] = dispatch.gap_counts(w)
        out = torch.empty(3000, dtype=torch.int16)
        codebook, length = np.linspace(-2, 2, 33), np.linspace(3, 6, 33)
        for lmbda in (0.0, 1e-3):
            sums = dispatch.assign(w, h, codebook, length, lmbda, out)
            found[f"assign {dtype} {lmbda}"] = out.numpy().copy(), sums
        sums = dispatch.assign_grid(w, None, 0.25, 0.0, -30, 61, out, skip_zeros=True)
        found[f"grid {dtype}"] = out.numpy().copy(), sums
        found[f"losses {dtype}"] = (dispatch.cluster_losses(w, h, w[:61], out),)
        found[f"gather {dtype}"] = (dispatch.gather(w[:61], out).float().numpy(),)
    w, h = draw(3000, torch.float32)
    for quantizer in (nq.KMeans(9), nq.KMeans(6, pinned_zero=True), nq.Uniform(0.3), nq.ECSQ(0.02)):
        q = quantizer.fit(nn.Parameter(w), h)
        (tensor,) = q.tensors.values()
        symbols = tensor.assignment.numpy()
        code = HuffmanCode.from_counts(np.bincount(symbols.ravel()))
        data = code.encode(symbols)
        assert code.decode(data, len(symbols)).tolist() == symbols.tolist()
        sizes = np.array([q.distortion, q.compression_ratio, len(data)])
        found[f"fit {quantizer}"] = tensor.codebook.detach().numpy(), symbols, sizes
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 50), nn.Linear(50, 20))
    sensitivity = {n: torch.rand_like(p) ** 8 for n, p in model.named_parameters()}
    curves = nq.curves(nq.select(model, sensitivity=sensitivity), progress=False)
    found["curves"] = (curves.select_dtypes("number").to_numpy(),)
    return found


if __name__ == "__main__":
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import nbquant  # noqa: F401

        at_import = len(caught)
        found = results()
    said = [(w.category.__name__, str(w.message)) for w in caught]
    Path(sys.argv[1]).write_bytes(pickle.dumps((found, at_import, said)))
