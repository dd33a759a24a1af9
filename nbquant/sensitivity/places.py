"""Assignment of a loss's places (words of a sentence, pixels of an image) to samples."""

from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from nbquant.losses import Term


def sample_of_places(
    term: Term, outputs: Sequence[Tensor], axes: tuple[int, ...], samples: int
) -> Int64[Tensor, "..."] | None:
    """Find the sample of each place (or entry) of a term; None if samples cannot be distinguished.

    The outputs of sample n are moved by t_n u, with u the same for all: places of sample n then move t_n
    times as fast as they do under u.
    """
    for z, axis in zip(outputs, axes, strict=True):
        if term.z is z:
            shape = [samples if d == axis else 1 for d in range(z.ndim)]
            sample = torch.arange(samples, device=z.device).reshape(shape).expand(z.shape)
            return sample if term.mass is None else sample.select(term.dim, 0)
    generator = torch.Generator(outputs[0].device).manual_seed(0)
    even, moved = [], []
    for z, axis in zip(outputs, axes, strict=True):
        u = torch.rand(
            [1 if d == axis else n for d, n in enumerate(z.shape)],
            generator=generator,
            device=z.device,
            dtype=z.dtype,
        )
        t = 1 + torch.arange(z.shape[axis], device=z.device, dtype=z.dtype) / samples
        even.append(u.add(0.5).expand(z.shape))
        moved.append(even[-1] * t.reshape([-1 if d == axis else 1 for d in range(z.ndim)]))
    a, b = _moved(term, outputs, even), _moved(term, outputs, moved)
    if a is None or b is None:
        return None
    ratio = (b / a - 1) * samples
    known = a.abs() > 1e-6 * a.abs().amax()
    whole = ratio.round()
    if bool(((ratio - whole).abs() > 0.2)[known].any()):
        return None  # places that depend on several samples
    if term.mass is None:
        return whole.long() if bool(known.all()) else None
    known, ratio = known.movedim(term.dim, -1), whole.movedim(term.dim, -1)
    first = known.long().argmax(-1, keepdim=True)
    sample = ratio.gather(-1, first)
    same = ((ratio == sample) | ~known).all() & known.any(-1).all()
    return sample.squeeze(-1).long() if bool(same) else None


def _moved(term: Term, outputs: Sequence[Tensor], tangents: Sequence[Tensor]) -> Tensor | None:
    """Derivative of a term's inputs as the outputs move."""
    dummy = torch.zeros_like(term.z, requires_grad=True)
    back = torch.autograd.grad(
        term.z, outputs, dummy, create_graph=True, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    pairs = [(g, t) for g, t in zip(back, tangents, strict=True) if g.requires_grad]
    if not pairs:
        return None
    return torch.autograd.grad([g for g, _ in pairs], dummy, [t for _, t in pairs])[0]


def ranks(sample: Int64[Tensor, "..."] | None, counts: Tensor) -> Int64[Tensor, "..."]:
    """Number each place among the counted ones of its sample; without samples, among all."""
    flat = counts.flatten()
    own = torch.zeros_like(flat, dtype=torch.long) if sample is None else sample.flatten()
    order = torch.where(flat, own, own.max() + 1 if len(own) else 0).argsort(stable=True)
    order = order[: int(flat.sum())]
    sorted_samples = own[order]
    starts = torch.searchsorted(sorted_samples, sorted_samples)
    slots = torch.full_like(own, -1)
    slots[order] = torch.arange(len(order), device=own.device) - starts
    return slots.reshape(counts.shape)
