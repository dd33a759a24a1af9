"""Rate accounting: bits of clusters and positions, by part of the ledger."""

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
    """Whether zeros are left out and stay exactly zero: if they are at least half of the weights.

    With fewer zeros, a codeword for zero costs less than positions, which take at least a bit for each of the
    other weights; then zeros are weights like any other.
    """
    return 2 * zeros >= weights


def lengths_for(counts: Int64[np.ndarray, " k"], coding: str) -> Lengths:
    """Compute codeword lengths ℓ [bit] of non-empty clusters; for an arithmetic code the ideal ones, −log₂(n / Σn)."""
    return codes.named(coding).lengths(counts) if len(counts) else counts


def code_ledger(counts: Int64[np.ndarray, " k"], lengths: Lengths, coding: str, bits: int) -> Ledger:
    """Count payload Σ n ℓ, code table as written (Huffman and arithmetic codes), and codebook k·b.

    Arithmetic codes differ: slightly more with static frequencies, less with contexts; known only after encoding.

    Source: Choi et al. 2017 (arXiv:1612.01543), equations 4 and 9, where the code table is Σ ℓ.
    """
    table_bits = codes.named(coding).table_bits
    return Ledger(
        payload=math.ceil(counts @ lengths),
        code_table=0 if table_bits is None else table_bits(counts, lengths),
        codebook=len(counts) * bits,
    )


def tensor_gaps(weight: Float[Tensor, "..."] | Int[Tensor, "..."]) -> GapHistogram:
    """Count the gaps between the non-zero entries of a tensor, by coded block: see :func:`block_gaps`."""
    return reduce(add, block_gaps(weight))


def block_gaps(weight: Float[Tensor, "..."] | Int[Tensor, "..."]) -> list[GapHistogram]:
    """Count the gaps of each block (at least one); none for a block without zeros, whose positions are implied."""
    flat = weight.detach().reshape(-1)
    return [_gaps(flat[i : i + positions.BLOCK_ENTRIES]) for i in range(0, max(len(flat), 1), positions.BLOCK_ENTRIES)]


def _gaps(block: Float[Tensor, " n"] | Int[Tensor, " n"]) -> GapHistogram:
    gaps, counts = dispatch.gap_counts(block)
    dense = counts.sum() == len(block)
    return GapHistogram(gaps[:0], counts[:0]) if dense else GapHistogram(gaps, counts)


def position_ledger(gaps: Sequence[GapHistogram]) -> Ledger:
    """Count the bits of a pruned selection's positions: one stream per tensor, tables shared where that saves bits."""
    payload = table = 0
    for group in group_tables(gaps, progress=False):
        in_payload, in_table = position_bits(reduce(add, (gaps[i] for i in group)))
        payload, table = payload + in_payload, table + in_table
    return Ledger(position_payload=payload, position_table=table)


def zeros_ledger(zeros: Sequence[int], weights: Sequence[int]) -> Ledger:
    """Estimate the bits of a pruned selection's zeros at order 0, as a symbol of the alphabet, before encoding.

    Args:
        zeros: Number of zeros in each tensor.
        weights: Number of weights in each.
    """
    z, n = np.array(zeros, np.float64), np.array(weights, np.float64)
    kinds = [kind[kind > 0] * np.log2(n[kind > 0] / kind[kind > 0]) for kind in (z, n - z)]
    return Ledger(payload=math.ceil(sum(bits.sum() for bits in kinds)), position_payload=0, position_table=0)
