"""Inspection of files that other libraries have quantized: what each tensor stores, needs and lost."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int64
from torch import Tensor, nn

from nbquant.analysis.bounds import largest_distortion
from nbquant.analysis.log_curve import LogCurve, bound_curve
from nbquant.analysis.original import Matched, Original, in_order, matched
from nbquant.analysis.statistics import Statistics
from nbquant.analysis.tabulated import curve
from nbquant.coding.entropy import entropy
from nbquant.formats.packed_files import open_packed
from nbquant.formats.packed_tensor import PackedFile, PackedTensor
from nbquant.kernels.cpu.huffman import count_symbols
from nbquant.kernels.cpu.special import count_special
from nbquant.listed import listed
from nbquant.progress import Progress, track
from nbquant.quantization import methods as known_methods
from nbquant.quantization.blocks.block_codes import BlockCodes, symbol_entropy
from nbquant.quantization.blocks.damage import Damage, damage
from nbquant.quantization.selection import as_selection
from nbquant.required import require, require_path
from nbquant.sensitivity.files import load_sensitivity

CODES = 256

COLUMNS = {
    "name": "object",
    "original": "object",
    "order": "object",
    "shape": "object",
    "format": "object",
    "weights": "int64",
    "bits": "int64",
    "rate": "float64",
    "code_bits": "float64",
    "side_bits": "float64",
    "code_entropy": "float64",
    "side_entropy": "float64",
    "entropy": "float64",
    "levels": "Int64",
    "zeros": "Int64",
    "negative_zeros": "Int64",
    "not_finite": "Int64",
    "original_zeros": "Int64",
    "zeros_lost": "Int64",
    "signs_flipped": "Int64",
    "relative_error": "float64",
    "distortion": "float64",
    "loss": "float64",
    "bound_rate": "float64",
    "bits_wasted": "float64",
    "decibels_lost": "float64",
}


def inspect(
    path: str | os.PathLike[str],
    original: nn.Module | str | os.PathLike[str] | None = None,
    sensitivity: Mapping[str, Tensor] | str | os.PathLike[str] | None = None,
    *,
    methods: Sequence[str] = ("ecsq",),
    progress: Progress = True,
) -> pd.DataFrame:
    """Inspect a file that another library has quantized, such as a GGUF file or an ONNX model.

    The file is read a piece at a time, so that memory does not grow with it.

    Args:
        path: The file, in one of :data:`nbquant.formats.packed_files.PACKED_FORMATS`.
        original: The network before quantization, or the path of its checkpoint: shows what was lost, and what other
            codes need for the same loss. Names and orders of rows are matched.
        sensitivity: Hessian diagonals h by the original's names, or their file; without them, or for tensors without
            one, h = 1.
        methods: Methods with a curve from histograms; each adds a column ``NAME_rate``.
        progress: See :data:`nbquant.progress.Progress`; counts tensors.

    Returns:
        A row for each tensor. ``bits`` are stored; ``rate``, ``code_bits`` and ``side_bits`` (scales and all else) are
        per weight, and so are the entropies: what ideal codes of single symbols would take. ``levels`` are the codes
        in use, ``zeros`` and ``negative_zeros`` decoded weights. With the original: how many of its zeros
        (``original_zeros``) were lost, signs flipped; ``relative_error`` Σ(w − ŵ)²/Σw², ``distortion`` ½·mean h(w − ŵ)²
        [loss/weight], ``loss`` over all weights; the rate-distortion function at that distortion ``bound_rate``
        [bit/weight], ``bits_wasted`` the rate above it, ``decibels_lost`` the distortion over that of the bound at the
        same rate [dB]; ``ecsq_rate`` what entropy-constrained scalar quantization takes for the distortion.
        What does not apply is missing.

    Raises:
        ValueError: Another kind of file, a damaged one, a sensitivity without an original, an original or sensitivities
            of which no name fits, an unknown method.
        TypeError: Arguments of other types.
        OSError: A file that does not exist or cannot be read.
        Cancelled: By ``progress``.
    """
    if sensitivity is not None and original is None:
        raise ValueError("sensitivities weigh the error against the original: pass original=, or leave them out.")
    require_path("path", path)
    if sensitivity is not None:
        kinds = (Mapping, str, os.PathLike)
        require(
            "sensitivity", sensitivity, kinds, "must map names to tensors", "pass nbquant.sensitivity(…), or its file"
        )
    methods = (methods,) if isinstance(methods, str) else tuple(methods)
    families = [known_methods.named(name) for name in methods]
    without = [method.name for method in families if method.curve is None]
    if without:
        raise ValueError(f"methods with a curve from histograms are required, but {', '.join(without)} came.")
    source = None if original is None else Original.of(original)
    h = load_sensitivity(sensitivity) if isinstance(sensitivity, str | os.PathLike) else sensitivity
    opened = open_packed(path)
    if source is not None:
        _require_matches(opened, source, h)
    return inspected(opened, source, h, methods, progress)


def inspected(
    opened: PackedFile,
    source: Original | None,
    h: Mapping[str, Tensor] | None,
    methods: Sequence[str],
    progress: Progress,
) -> pd.DataFrame:
    """Inspect an open file; see :func:`inspect`."""
    rows = []
    for packed in track(list(opened.tensors.values()), "tensors", progress):
        row, match, own_h = _stored(packed), None, None
        name = None if source is None else source.name_of(packed)
        if source is not None and name is not None:
            tensor = source.tensor(name)
            match = matched(tensor, packed)
            if h is not None and name in h and match is not None:
                own_h = in_order(h[name], packed, match.order)
            row |= {"original": name, "order": None if match is None else match.order}
        contents = _contents(packed, match, own_h)
        row |= contents.row()
        if match is not None and contents.damage is not None and packed.format is not None:
            row |= _against(match, own_h, contents, row["rate"], methods)
        rows.append(row)
    extra = {f"{name}_rate": "float64" for name in methods} if source is not None else {}
    frame = pd.DataFrame(rows)
    wanted = COLUMNS | extra
    return frame.reindex(columns=list(wanted)).astype(wanted)


def _require_matches(opened: PackedFile, source: Original, h: Mapping[str, Tensor] | None) -> None:
    """Refuse an original or sensitivities that have nothing to do with the file."""
    found = source.names_in(opened)
    if not found:
        raise ValueError(
            f"original must be the network before quantization, but none of its {len(source.names)} tensors "
            f"({listed(source.names, 3)}) has the name of one in {opened.path.name!r} ({listed(opened.tensors, 3)})."
        )
    if h is not None and found.isdisjoint(h):
        raise ValueError(
            f"sensitivities must have the original's names ({listed(found, 3)}), but have {listed(h, 3)}: estimate "
            "them for the original."
        )


@dataclass
class _Contents:
    """Counts over the pieces of a tensor."""

    weights: int
    codes: Int64[np.ndarray, "4 k"] = field(default_factory=lambda: np.zeros((4, CODES), np.int64))
    parts: dict[str, list[np.ndarray]] = field(default_factory=dict)
    zeros: int = 0
    negative_zeros: int = 0
    not_finite: int = 0
    damage: Damage | None = None
    loss: float = 0.0

    def add_codes(self, codes: BlockCodes) -> None:
        count_symbols(codes.codes.reshape(-1), self.codes)
        for part in codes.parts:
            self.parts.setdefault(part.name, []).append(np.ascontiguousarray(part.values).reshape(-1))

    def row(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "zeros": self.zeros,
            "negative_zeros": self.negative_zeros,
            "not_finite": self.not_finite,
        }
        counts = self.codes.sum(0)
        if counts.any():
            joined = [np.concatenate(values) for values in self.parts.values()]
            side = sum(symbol_entropy(values) * len(values) for values in joined)
            own = entropy(counts)
            found |= {"levels": int((counts > 0).sum()), "code_entropy": own, "side_entropy": side / self.weights}
            found["entropy"] = own + side / self.weights
        if self.damage is not None:
            found |= {
                "original_zeros": self.damage.zeros,
                "zeros_lost": self.damage.zeros_lost,
                "signs_flipped": self.damage.signs_flipped,
                "relative_error": self.damage.relative_error,
                "distortion": self.loss / self.weights,
                "loss": self.loss,
            }
        return found


def _stored(packed: PackedTensor) -> dict[str, Any]:
    """What the header tells."""
    row: dict[str, Any] = {
        "name": packed.name,
        "shape": "×".join(map(str, packed.shape)),
        "format": packed.kind,
        "weights": packed.weights,
        "bits": packed.bits,
        "rate": packed.bits / packed.weights,
    }
    if packed.format is not None:
        row |= {"code_bits": packed.format.code_bits, "side_bits": row["rate"] - packed.format.code_bits}
    return row


def _contents(packed: PackedTensor, match: Matched | None, h: Tensor | None) -> _Contents:
    """Read a tensor a piece at a time."""
    found = _Contents(packed.weights)
    for first, last in packed.pieces():
        if packed.codes is not None:
            found.add_codes(packed.codes(first, last))
        if packed.values is None:
            continue
        decoded = packed.values(first, last)
        zeros, negative, unbounded = count_special(np.ascontiguousarray(decoded).reshape(-1).view(np.uint32))
        found.zeros += zeros
        found.negative_zeros += negative
        found.not_finite += unbounded
        if match is not None:
            weight = match.matrix[first:last].float().numpy()
            here = damage(weight, decoded)
            found.damage = here if found.damage is None else found.damage + here
            error = here.error
            if h is not None:
                error = float((np.square(np.subtract(weight, decoded, dtype=np.float64)) * h[first:last].numpy()).sum())
            found.loss += 0.5 * error
    return found


def _against(
    match: Matched, h: Tensor | None, contents: _Contents, rate: float, methods: Sequence[str]
) -> dict[str, float]:
    """Compare with the bound and with other methods on the same weights."""
    distortion = contents.loss / contents.weights
    weighted = h is not None
    statistics = Statistics.of(as_selection(match.matrix, h))
    worst = largest_distortion(statistics)
    if not math.isfinite(distortion) or distortion <= 0 or worst <= 0:  # equal weights have no curves
        return {}
    found: dict[str, float] = {}
    if distortion < worst:
        limit = bound_curve(statistics)
        at = limit.rate(distortion)
        found |= {"bound_rate": at, "bits_wasted": rate - at}
        found["decibels_lost"] = limit.decibels_lost(distortion, rate)
    for name in methods:
        family = known_methods.family(name, weighted=weighted)
        points = curve(family, statistics)
        rate_of, distortion_of = (np.array([getattr(p, n) for p in points]) for n in ("rate", "distortion"))
        found[f"{name}_rate"] = LogCurve.of(rate_of, distortion_of, worst).rate(distortion)
    return found
