"""Models sharded over the ranks of ``torch.distributed``, as by FSDP2 with DTensors."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, TypeGuard

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from nbquant.coding.ledger import Ledger
from nbquant.quantization.codebook import QuantizedTensor
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.rate import position_ledger, tensor_gaps
from nbquant.quantization.shards import Array, Shards

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_spread(values: Tensor) -> "TypeGuard[DTensor]":
    """Whether it is a DTensor; avoids importing their module, which takes half a second."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(values, module.DTensor)


def local_part(name: str, values: Tensor) -> Tensor:
    """Get this rank's part of a tensor, or the tensor itself if it is not sharded.

    Raises:
        ValueError: Ranks hold partial sums of it, or a mesh other than the default group's.
    """
    if not is_spread(values):
        return values
    if any(placement.is_partial() for placement in values.placements):
        raise ValueError(
            f"shards or copies are required, but ranks hold partial sums of {name!r}: redistribute it to Shard or "
            "Replicate."
        )
    if values.device_mesh.size() != dist.get_world_size():
        raise ValueError(
            f"{name!r} must be spread over all {dist.get_world_size()} ranks, but is over {values.device_mesh.size()}: "
            "select on a mesh of all ranks."
        )
    return values.to_local()


def part_like(values: Tensor, parameter: Tensor) -> Tensor:
    """Cut the part that corresponds to this rank's part of a parameter out of a whole tensor; no communication."""
    if not is_spread(parameter) or is_spread(values) or values.shape != parameter.shape:
        return values
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(
        values.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
    )


def shards_of(tensors: Mapping[str, Tensor]) -> Shards | None:
    """Describe how ranks share tensors; None if none of them is sharded."""
    if not any(map(is_spread, tensors.values())):
        return None
    return Shards(
        gather=gather,
        counts={name: values.numel() for name, values in tensors.items()},
        elsewhere=frozenset(name for name, values in tensors.items() if _is_copy(values)),
    )


def gather(values: Array) -> Array:
    """Gather the arrays of all ranks, stacked; see :class:`~nbquant.quantization.shards.Shards`."""
    ranks = dist.get_world_size()
    if not values.size:
        return np.zeros((ranks, *values.shape), values.dtype)
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    own = torch.from_numpy(np.array(values, order="C")).to(device)
    found = [torch.empty_like(own) for _ in range(ranks)]
    dist.all_gather(found, own)
    return torch.stack(found).cpu().numpy()


def _is_copy(values: Tensor) -> bool:
    """Whether another rank holds the same part and counts it: the first one along each dimension of the mesh."""
    if not is_spread(values):
        return dist.get_rank() != 0
    coordinate = values.device_mesh.get_coordinate()
    assert coordinate is not None
    return any(at and not p.is_shard() for at, p in zip(coordinate, values.placements, strict=True))


def gather_quantized(quantized: Quantized, model: nn.Module) -> Quantized:
    """Gather a quantization of which every rank holds a shard, to be saved or applied; called by all ranks.

    Args:
        quantized: Fitted to a selection of shards.
        model: The model selected from, sharded as before.

    Raises:
        ValueError: It is already whole, or the model is another one.
    """
    if quantized.shards is None:
        raise ValueError("a quantization of shards is required, but this one is whole: use it as it is.")
    parameters = quantized.named_in(model)
    tensors = {name: _whole(tensor, parameters[name]) for name, tensor in quantized.tensors.items()}
    ledger = dict(quantized.ledger)
    if quantized.pruned:
        # Positions of a whole tensor are one stream, not one per shard.
        positions = position_ledger([tensor_gaps((t.assignment >= 0).to(torch.int8)) for t in tensors.values()])
        ledger |= {part: bits for part, bits in positions.items() if part.startswith("position")}
    return replace(quantized, tensors=tensors, ledger=Ledger(ledger), shards=None)


def _whole(tensor: QuantizedTensor, parameter: nn.Parameter) -> QuantizedTensor:
    if not is_spread(parameter):
        return tensor
    from torch.distributed.tensor import DTensor

    index = tensor.assignment.reshape(tensor.shape)
    sent = index if index.dtype == torch.int8 else index.to(torch.int32)  # gloo has no integers of 16 bits
    spread = DTensor.from_local(
        sent,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
    assignment = spread.full_tensor().to(index.dtype).reshape(-1)
    return replace(tensor, assignment=assignment, shape=parameter.shape)
