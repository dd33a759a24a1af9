"""Triton kernel that reconstructs weights from codebook and assignment."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 2048  # weights per program
SLAB = 1 << 30  # weights per launch: offsets within it fit 32 bits


@triton.jit
def gather_kernel(codebook, assignment, out, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Write the codeword of each assignment, or zero for −1."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    index = tl.load(assignment + at, mask=inside, other=-1).to(tl.int32)
    tl.store(out + at, tl.load(codebook + index, mask=index >= 0, other=0.0), mask=inside)


def gather(codebook: Float[Tensor, " k"], assignment: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """See :func:`nbquant.kernels.reference.gather`; any integer dtype."""
    out = torch.empty(assignment.shape, dtype=codebook.dtype, device=assignment.device)
    flat, into, codebook = assignment.reshape(-1), out.view(-1), codebook.contiguous()
    for start in range(0, flat.numel(), SLAB):
        part = flat[start : start + SLAB]
        gather_kernel[(triton.cdiv(len(part), BLOCK),)](codebook, part, into[start:], len(part), BLOCK=BLOCK)
    return out
