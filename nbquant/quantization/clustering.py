"""Quantization of a selection by clusters: the steps shared by all scalar quantizers."""

from collections.abc import Iterator, Mapping
from functools import reduce

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nbquant.coding import codes
from nbquant.coding.ledger import Ledger
from nbquant.coding.positions import GapHistogram
from nbquant.progress import Progress, track
from nbquant.quantization.clusters import Clusters
from nbquant.quantization.codebook import PRUNED, Codebook, QuantizedTensor
from nbquant.quantization.histogram import Cells, Histogram
from nbquant.quantization.members import ClusterSums, Members, blocks_of, index_dtype, most_sweeps
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.quantizer import ScalarQuantizer
from nbquant.quantization.rate import is_mostly_zero, lengths_for, position_ledger, tensor_gaps
from nbquant.quantization.selection import Selection
from nbquant.quantization.shards import Shards
from nbquant.quantization.streams import coded
from nbquant.quantization.tensor import SelectedTensor

WHOLE = "all"
ROUNDING = 2.0**-42  # share of Σhw² below which a loss is float64 rounding error


def groups_of(selection: Selection, per_layer: bool) -> dict[str, Selection]:
    """Split a selection into the groups that share a codebook."""
    return selection.by_layer() if per_layer else {WHOLE: selection}


def quantize_clusters(
    quantizer: ScalarQuantizer,
    selection: Selection,
    progress: Progress = False,
    *,
    start: Mapping[str, Clusters] | None = None,
    zeros: int | None = None,
    positions: Ledger | None = None,
    histograms: Mapping[str, Histogram] | None = None,
) -> Quantized:
    """Find clusters from histograms and refine them on the weights.

    The weights are swept in blocks, without copying or joining them. Memory beyond the weights is the
    assignment (a byte per weight with fewer than 128 levels) and tables whose size does not depend on their number.

    Args:
        quantizer: The quantizer.
        selection: The selection.
        progress: See :data:`nbquant.progress.Progress`; counts blocks, up to the largest number of sweeps.
        start: Clusters of each group, if already known from histograms.
        zeros: Number of weights that are exactly zero, if already known.
        positions: Bits of the positions of a pruned selection, if already known.
        histograms: Histograms by group, if already known; with zeros or, for a pruned selection, without.

    Raises:
        ValueError: NaN or infinite entries; a code that needs all weights in one process while ranks hold shards.
        Cancelled: By ``progress``.
    """
    groups = groups_of(selection, quantizer.per_layer)
    # A layer of zeros has no start.
    rows = quantizer.weighted and quantizer.needs_rows
    made = {
        g: histogram_of_group(members, rows, progress) for g, members in groups.items() if not start or g not in start
    }
    if selection.shards is not None and not codes.named(quantizer.coding).known_from_counts:
        selection.require_whole(f"coding={quantizer.coding!r}")
    if zeros is None:
        zeros = sum(made[g].zeros if g in made else _zeros(members) for g, members in groups.items())
    known = {**(histograms or {}), **made}
    pruned = is_mostly_zero(zeros, len(selection))
    blocks = sum(blocks_of(members) * most_sweeps(len(members)) for members in groups.values())
    ticks = track(range(blocks), "exact pass", progress)
    tensors: dict[str, QuantizedTensor] = {}
    codebooks: dict[str, Codebook] = {}
    loss = 0.0
    for group, members in groups.items():
        clusters = start[group] if start and group in start else _clusters(quantizer, made[group], pruned)
        book, quantized, group_loss = _quantize_group(quantizer, members, pruned, clusters, known.get(group), ticks)
        codebooks[group] = book
        tensors |= quantized
        loss += group_loss
    for _ in ticks:  # count the sweeps that were not needed
        pass

    def of_positions() -> Ledger:
        return positions or position_ledger([gaps_of(t, selection) for t in selection])

    tensors, ledger = coded(tensors, codebooks, quantizer.coding, of_positions if pruned else None, progress)
    return Quantized.of(quantizer, selection, tensors, codebooks, ledger, loss)


def histogram_of_group(members: Selection, rows: bool, progress: Progress) -> Histogram:
    """Merge the histograms of the tensors that share a codebook; see :func:`histogram_of`."""
    return Histogram.merge(histogram_of(t, members, progress, rows) for t in members)


def histogram_of(tensor: SelectedTensor, of: Selection, progress: Progress = False, joint: bool = True) -> Histogram:
    """Compute the histogram of a tensor of a selection, over all ranks.

    Args:
        tensor: A tensor of the selection.
        of: The selection.
        progress: See :data:`nbquant.progress.Progress`.
        joint: See :meth:`Histogram.of`.

    Raises:
        ValueError: As :meth:`Histogram.of`.
    """
    if of.shards is None:
        return Histogram.of(tensor.weight, tensor.sensitivity, tensor.name, progress, joint)
    w, h = _counted(tensor.weight, tensor, of.shards), tensor.sensitivity
    own = None if h is None else _counted(h, tensor, of.shards)
    return of.shards.merged(Histogram.of(w, own, tensor.name, progress, joint, of.count(tensor)))


def gaps_of(tensor: SelectedTensor, of: Selection) -> GapHistogram:
    """Count the gaps between the non-zero weights of a tensor of a selection, over all ranks."""
    if of.shards is None:
        return tensor_gaps(tensor.weight)
    return of.shards.merged_gaps(tensor_gaps(_counted(tensor.weight, tensor, of.shards)))


def _counted(values: Float[Tensor, "..."], tensor: SelectedTensor, shards: Shards) -> Float[Tensor, "..."]:
    """The part of a tensor's values counted on this rank: empty if another rank has and counts them."""
    return values.reshape(-1)[:0] if tensor.name in shards.elsewhere else values


def _zeros(members: Selection) -> int:
    if members.shards is not None:
        return sum(histogram_of(t, members, joint=False).zeros for t in members)
    return sum(t.weight.numel() - int(t.weight.count_nonzero()) for t in members)


def _clusters(quantizer: ScalarQuantizer, histogram: Histogram, pruned: bool) -> Clusters | None:
    """Clusters from the histogram; None if no weight is left."""
    if pruned:
        histogram = histogram.without_zeros()
    if not len(histogram):
        return None
    return quantizer.clusters(Cells.of_histogram(histogram, quantizer.weighted, quantizer.needs_rows))


def _quantize_group(
    quantizer: ScalarQuantizer,
    selection: Selection,
    pruned: bool,
    start: Clusters | None,
    histogram: Histogram | None,
    ticks: Iterator[object],
) -> tuple[Codebook, dict[str, QuantizedTensor], float]:
    """Codebook, tensors and predicted loss increase of one group."""
    dtype = reduce(torch.promote_types, (t.weight.dtype for t in selection))
    device = selection.tensors[0].weight.device
    if start is None:
        value, counts, loss = torch.zeros(0, dtype=dtype), np.zeros(0, np.int64), 0.0
        assignment = {
            t.name: torch.full((t.weight.numel(),), PRUNED, dtype=index_dtype(0), device=device) for t in selection
        }
    else:
        # An unweighted mean is over w itself, but the bins only know sums weighted by h.
        tells = quantizer.weighted or selection.tensors[0].sensitivity is None
        tells = tells and selection.shards is None  # the merged bins are not those of this rank's weights
        members = Members(selection, pruned, ticks, histogram.marginal if histogram is not None and tells else None)
        centres, sums = quantizer.refine(members, start)
        members.fetch()
        used = np.flatnonzero(sums[:, 0] > 0)
        # Stored values are rounded to the weights' dtype, which may make two values equal.
        value, index = torch.unique(torch.from_numpy(centres[used]).to(dtype), return_inverse=True)
        merged = index.numpy()
        if not np.array_equal(merged, np.arange(len(sums))):
            code = np.zeros(len(sums), np.int64)
            code[used] = merged
            members.renumber(code)
        counts = np.bincount(merged, sums[used, 0]).astype(np.int64)
        # Each tensor stores the values in its own dtype.
        loss = sum(_loss(part[used], value[index].to(own)) for own, part in members.sums.items())
        assignment = members.assignment
    value = value.to(device)
    length = lengths_for(counts, quantizer.coding)
    book = Codebook(value, torch.from_numpy(counts).to(device), torch.from_numpy(length).to(device))
    tensors = {t.name: QuantizedTensor(value.to(t.weight.dtype), assignment[t.name], t.weight.shape) for t in selection}
    return book, tensors, loss


def _loss(sums: ClusterSums, value: Float[Tensor, " k"]) -> float:
    """½ Σ h (w − c)² from the clusters' sums."""
    c = value.double().numpy()
    _, _, s0, s1, s2 = sums.T
    loss = s2 - 2 * c * s1 + c * c * s0
    return float(0.5 * loss[loss > ROUNDING * s2].sum())
