"""Breakdown of rate and predicted loss by layer and by codeword."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from nbquant.coding import codes
from nbquant.coding.code import Lengths
from nbquant.coding.ledger import Ledger
from nbquant.coding.positions import gap_code, group_tables
from nbquant.progress import Progress, track
from nbquant.quantization.codebook import Codebook
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.rate import tensor_gaps
from nbquant.quantization.selection import Selection
from nbquant.quantization.streams import book_ledger
from nbquant.quantization.tensor import SelectedTensor

SWEEP_BLOCK = 1 << 24  # weights between two checks for cancellation


@dataclass(frozen=True, eq=False)
class Breakdown:
    """Rate and predicted loss by layer and by codeword, as shares of the whole selection.

    Attributes:
        layers: One row per layer, in the model's order: ``layer``, ``weights``, ``pruned`` (number of zeros left out),
            ``bits`` (payload and positions, and the tables and codebooks used by this layer alone),
            ``share_of_rate`` (bits shared by several layers are in none), ``predicted_loss`` [loss], ``share_of_loss``,
            ``mean_sensitivity`` [loss/weight²] of all its weights.
        codewords: For each group, one row per codeword: ``centre``, ``count``, ``share`` of the group's coded weights,
            ``codeword`` (bits as in the file; empty for a code without codewords or with a single one of 0 bits),
            ``codeword_length`` [bit], ``bits`` (count · length; for adaptive coding, of an order-0 code),
            ``share_of_rate``, ``predicted_loss`` ½Σh(w − c)² of its members [loss], ``share_of_loss``.
    """

    layers: pd.DataFrame
    codewords: dict[str, pd.DataFrame]


def breakdown(quantized: Quantized, selection: Selection, progress: Progress = False) -> Breakdown:
    """Break rate and predicted loss down by layer and codeword, in one pass over the weights.

    The layers' bits and the shared bits add up to the ledger; the losses of the layers, and those of the codewords, add
    up to ``predicted_loss_increase``. Fine-tuned values are compared with the weights of the selection.

    Args:
        quantized: Result of :func:`nbquant.fit`.
        selection: The selection it was fitted to.
        progress: See :data:`nbquant.progress.Progress`; counts blocks.

    Raises:
        ValueError: A selection with other tensors.
        Cancelled: By ``progress``.
    """
    _check(quantized, selection)
    sums = _sums(quantized, selection, progress)
    total = float(sum(s[:, LOSS].sum() for s in sums.values()))
    return Breakdown(
        _layers(quantized, selection, sums, total),
        {group: _codewords(quantized, group, sums, total) for group in quantized.codebooks},
    )


def codeword_strings(lengths: Lengths, coding: str) -> tuple[str, ...]:
    """List the codewords of a code with these lengths, as strings of 0 and 1 as in the file; empty where there is none.

    Args:
        lengths: Codeword lengths ℓ [bit], all equal for a fixed-length code.
        coding: Name of the code.
    """
    strings = codes.named(coding).codewords
    return ("",) * len(lengths) if strings is None or not len(lengths) else strings(lengths)


N, MASS, LOSS = range(3)  # columns of the sums
LayerSums = dict[str, Float[np.ndarray, "k+1 3"]]
"""n, Σh, ½Σh(w − c)² per tensor and codeword, with a last row for the pruned weights."""


def _check(quantized: Quantized, selection: Selection) -> None:
    shapes = {t.name: t.weight.shape for t in selection}
    if shapes != {name: t.shape for name, t in quantized.tensors.items()}:
        other = sorted(n for n in shapes.keys() | quantized.tensors.keys() if shapes.get(n) != _shape(quantized, n))
        raise ValueError(
            f"the selection must hold the {len(quantized.tensors)} quantized tensors, but {len(other)} "
            f"differ, such as {other[0]!r}: pass the selection that was fitted"
        )


def _shape(quantized: Quantized, name: str) -> torch.Size | None:
    return quantized.tensors[name].shape if name in quantized.tensors else None


def _sums(quantized: Quantized, selection: Selection, progress: Progress) -> LayerSums:
    # A block format restores a whole tensor at once.
    size = {t.name: SWEEP_BLOCK if quantized.tensors[t.name].scaling is None else t.weight.numel() for t in selection}
    blocks = [(t, i) for t in selection for i in range(0, max(t.weight.numel(), 1), max(size[t.name], 1))]
    found: LayerSums = {}
    for tensor, begin in track(blocks, "breakdown", progress):
        part = slice(begin, begin + size[tensor.name])
        own = quantized.tensors[tensor.name]
        w, h = tensor.weight.reshape(-1)[part], tensor.sensitivity
        h = None if h is None else h.reshape(-1)[part]
        sums = own.losses(w, h, part)
        found[tensor.name] = found[tensor.name] + sums if tensor.name in found else sums
    return found


def _layers(quantized: Quantized, selection: Selection, sums: LayerSums, total: float) -> pd.DataFrame:
    bits = _bits(quantized, selection, sums)
    rows = []
    for layer in selection.layers:
        parts = [sums[t.name] for t in selection if t.layer == layer]
        n, mass, loss = np.sum([p.sum(axis=0) for p in parts], axis=0)
        rows.append(
            {
                "layer": layer,
                "weights": int(n),
                "pruned": int(sum(p[-1, N] for p in parts)),
                "bits": bits[layer],
                "share_of_rate": _share(bits[layer], quantized.ledger.total),
                "predicted_loss": float(loss),
                "share_of_loss": _share(loss, total),
                "mean_sensitivity": float(mass / n) if n else 0.0,
            }
        )
    return pd.DataFrame(rows)


def _bits(quantized: Quantized, selection: Selection, sums: LayerSums) -> dict[str, int]:
    """Bits used by each layer alone."""
    bits = dict.fromkeys(selection.layers, 0)
    for group, book in quantized.codebooks.items():
        members = [t for t in selection if quantized.group_of(t.name) == group]
        lengths = book.codeword_length.cpu().numpy()
        for t in members:
            own = quantized.tensors[t.name]
            by_lengths = sums[t.name][:-1, N].astype(np.int64) @ lengths
            bits[t.layer] += int(by_lengths) if own.streams is None else 8 * sum(own.streams)
            if own.scaling is not None:
                bits[t.layer] += sum(own.scaling.bits().values())
        _charge(bits, members, _side_information(book, quantized.quantizer.coding).total)
    if quantized.ledger.get("position_payload"):
        gaps = [tensor_gaps(t.weight) for t in selection]
        for table in group_tables(gaps, progress=False):
            code = gap_code(reduce(add, (gaps[i] for i in table)))
            for i in table:
                bits[selection.tensors[i].layer] += code.payload_bits(gaps[i])
            _charge(bits, [selection.tensors[i] for i in table], code.table_bits)
    return bits


def _charge(bits: dict[str, int], members: Sequence[SelectedTensor], cost: int) -> None:
    """Add the bits shared by these tensors, if they belong to one layer."""
    layers = {t.layer for t in members}
    if len(layers) == 1:
        bits[layers.pop()] += cost


def _side_information(book: Codebook, coding: str) -> Ledger:
    return Ledger({part: bits for part, bits in book_ledger(book, coding).items() if part != "payload"})


def _codewords(quantized: Quantized, group: str, sums: LayerSums, total: float) -> pd.DataFrame:
    book, order = quantized.codebook_of(group), quantized.centres(group)[1].cpu().numpy()
    value, lengths = book.value.detach().cpu().double().numpy(), book.codeword_length.cpu().numpy()
    count = book.counts.cpu().numpy()
    members = [s[:-1, LOSS] for name, s in sums.items() if quantized.group_of(name) == group]
    loss = np.sum(members, axis=0)[order]
    return pd.DataFrame(
        {
            "centre": value,
            "count": count,
            "share": count / max(int(count.sum()), 1),
            "codeword": pd.Series(codeword_strings(lengths, quantized.quantizer.coding), dtype=object),
            "codeword_length": lengths,
            "bits": count * lengths,
            "share_of_rate": [_share(b, quantized.ledger.total) for b in count * lengths],
            "predicted_loss": loss,
            "share_of_loss": [_share(x, total) for x in loss],
        }
    )


def _share(part: float, total: float) -> float:
    return float(part / total) if total else 0.0
