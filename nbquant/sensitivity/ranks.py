"""Averaging of sensitivities over data-parallel ranks, each with a copy of the model and its own samples."""

from dataclasses import replace

import torch
import torch.distributed as dist

from nbquant.sensitivity.result import Sensitivity


def average_sensitivity(own: Sensitivity) -> Sensitivity:
    """Average sensitivities over the ranks of ``torch.distributed``, weighted by samples: the result of one process.

    Sensitivities of a mean loss are means over samples, so they can be averaged. (If a loss divides by labels, because
    some are ignored or weighted by class, that holds for ranks with equally many labels per sample.) Clamping cannot:
    if an estimator gave negative values, each rank has set its own to zero.

    Args:
        own: Result of :func:`nbquant.sensitivity` on this rank's samples; on all ranks by the same method,
            with the same damping, for the same parameters.

    Returns:
        The average, equal on every rank.

    Raises:
        RuntimeError: ``torch.distributed`` has not been initialized.
        ValueError: No samples on any rank (second moments of an optimizer are the same on all already), or ranks that
            differ in method, damping, parameters or shapes.
    """
    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError("torch.distributed must be initialized: start with torchrun, and call init_process_group().")
    said = (own.method, own.damping, [(name, tuple(h.shape)) for name, h in own.tensors.items()])
    ranks: list[tuple[object, int, dict[str, int], tuple[str, ...]]] = [None] * dist.get_world_size()  # type: ignore[list-item]
    dist.all_gather_object(ranks, (said, own.samples, own.clamped, own.inactive))
    if any(other != ranks[0][0] for other, *_ in ranks):
        raise ValueError(
            "all ranks must have sensitivities of one method, with one damping and for the same parameters, but they "
            "differ: estimate with the same arguments everywhere."
        )
    samples = sum(count for _, count, _, _ in ranks)
    if not samples:
        raise ValueError(f"samples are required, but {own.method!r} saw none on any rank: take the result as it is.")
    tensors = {}
    for name, h in own.tensors.items():
        total = h.to(torch.float64) * (own.samples / samples)
        dist.all_reduce(total)
        tensors[name] = total.to(h.dtype)
    clamped: dict[str, int] = {}
    for _, _, counts, _ in ranks:
        for name, count in counts.items():
            clamped[name] = clamped.get(name, 0) + count
    inactive = tuple(name for name in own.inactive if all(name in others for *_, others in ranks))
    return replace(own, tensors=tensors, samples=samples, clamped=clamped, inactive=inactive)
