"""What clusters and positions cost in bits, in the ledger's parts."""

import math
from collections.abc import Sequence
from functools import reduce
from operator import add

import numpy as np
from jaxtyping import Float, Int, Int64
from torch import Tensor

from nbquant.coding import codes, positions
from nbquant.coding.code import Lengths
from nbquant.coding.ledger import Ledger
from nbquant.coding.positions import GapHistogram, group_tables, position_bits
from nbquant.kernels import dispatch


def is_mostly_zero(zeros: int, weights: int) -> bool:
    """Whether zeros are left out and stay exactly zero: where half of the weights or more are.

    With fewer zeros a codeword for zero costs less than positions, whose shortest codeword takes a bit for each of the
    other weights; then zeros are weights like any other.
    """
    return 2 * zeros >= weights


def lengths_for(counts: Int64[np.ndarray, " k"], coding: str) -> Lengths:
    """Codeword lengths ℓ [bit] for clusters with members; of an arithmetic code the ideal ones, −log₂(n / Σn)."""
    return codes.named(coding).lengths(counts)


def code_ledger(counts: Int64[np.ndarray, " k"], lengths: Lengths, coding: str, bits: int) -> Ledger:
    """Payload Σ n ℓ, code table as it is written (of Huffman and arithmetic codes), codebook k·b.

    Arithmetic coding takes another payload, a little more by frequencies, less by context: known once it has run.

    Source: Choi et al. 2017 (arXiv:1612.01543), equations 4 and 9, where the code table is Σ ℓ.
    """
    table_bits = codes.named(coding).table_bits
    return Ledger(
        payload=math.ceil(counts @ lengths),
        code_table=0 if table_bits is None else table_bits(counts, lengths),
        codebook=len(counts) * bits,
    )


def tensor_gaps(weight: Float[Tensor, "..."] | Int[Tensor, "..."]) -> GapHistogram:
    """Gaps between the non-zero entries of a tensor, block by block as they are coded: see :func:`block_gaps`."""
    return reduce(add, block_gaps(weight))


def block_gaps(weight: Float[Tensor, "..."] | Int[Tensor, "..."]) -> list[GapHistogram]:
    """Gaps of each block, at least of one; none for a block without zeros, whose positions need no telling."""
    flat = weight.detach().reshape(-1)
    return [_gaps(flat[i : i + positions.BLOCK]) for i in range(0, max(len(flat), 1), positions.BLOCK)]


def _gaps(block: Float[Tensor, " n"] | Int[Tensor, " n"]) -> GapHistogram:
    gaps, counts = dispatch.gap_counts(block)
    dense = counts.sum() == len(block)
    return GapHistogram(gaps[:0], counts[:0]) if dense else GapHistogram(gaps, counts)


def position_ledger(gaps: Sequence[GapHistogram]) -> Ledger:
    """Positions of a pruned selection: every tensor its own stream, tables shared where that saves bits."""
    payload = table = 0
    for group in group_tables(gaps, progress=False):
        in_payload, in_table = position_bits(reduce(add, (gaps[i] for i in group)))
        payload, table = payload + in_payload, table + in_table
    return Ledger(position_payload=payload, position_table=table)


def zeros_ledger(zeros: Sequence[int], weights: Sequence[int]) -> Ledger:
    """What zeros of a pruned selection cost at order 0 where they are in the alphabet, before their coding has run.

    Args:
        zeros: Number of zeros in each tensor.
        weights: Number of weights in each.
    """
    z, n = np.array(zeros, np.float64), np.array(weights, np.float64)
    kinds = [kind[kind > 0] * np.log2(n[kind > 0] / kind[kind > 0]) for kind in (z, n - z)]
    return Ledger(payload=math.ceil(sum(bits.sum() for bits in kinds)), position_payload=0, position_table=0)
