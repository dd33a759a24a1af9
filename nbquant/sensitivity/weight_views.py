"""Identification of tensors as weights or views of weights, by their memory."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn


class Found(NamedTuple):
    """A weight, or a view of one.

    Attributes:
        name: Name of the parameter.
        first: First row of the view.
        rows: Number of its rows.
        transposed: Whether its last two axes are transposed.
        picked: Whether it is one matrix of a stack; it begins with ``first`` and has one axis less.
    """

    name: str
    first: int
    rows: int
    transposed: bool
    picked: bool = False


class Weights:
    """The weights to identify, by their memory, so that views of them are recognised, too."""

    def __init__(self, weights: Mapping[str, Tensor], chunks: Mapping[str, int]) -> None:
        """Index some weights.

        Args:
            weights: Weights by name.
            chunks: Number of equal groups of rows in which a weight may be used, if not as a whole.
        """
        self.chunks = chunks
        self._rows = {name: len(weight) for name, weight in weights.items()}
        self._by_storage: dict[int, list[tuple[str, Tensor]]] = {}
        for name, weight in weights.items():
            self._by_storage.setdefault(weight.untyped_storage().data_ptr(), []).append((name, weight))

    def rows(self, name: str) -> int:
        """Length of a weight's first axis."""
        return self._rows[name]

    def find(self, tensor: Any) -> Found | None:
        """Find the weight of which a tensor is all, or some rows."""
        if not isinstance(tensor, Tensor) or tensor.is_sparse:
            return None
        try:
            known = self._by_storage.get(tensor.untyped_storage().data_ptr(), ())
        except (RuntimeError, NotImplementedError):  # a subclass without storage
            return None
        for name, weight in known:
            same, flipped = _same_layout(tensor, weight)
            if (same or flipped) and tensor.storage_offset() == weight.storage_offset():
                return Found(name, 0, len(weight), flipped and not same)
            if weight.ndim == 3 and tensor.ndim == 2 and len(weight):
                same, flipped = _same_layout(tensor, weight[0])
                first, left = divmod(int(tensor.storage_offset()) - int(weight.storage_offset()), weight.stride(0))
                if (same or flipped) and not left and 0 <= first < len(weight):
                    return Found(name, first, 1, flipped and not same, picked=True)
                continue
            rows, _, chunk = len(weight), self.chunks.get(name, 1), len(weight) // self.chunks.get(name, 1)
            if chunk == rows or tensor.shape[1:] != weight.shape[1:] or tensor.stride() != weight.stride():
                continue
            first, left = divmod(int(tensor.storage_offset()) - int(weight.storage_offset()), weight.stride(0))
            if not left and first % chunk == len(tensor) % chunk == 0 and 0 <= first <= rows - len(tensor):
                return Found(name, first, len(tensor), False)
        return None


def _same_layout(tensor: Tensor, weight: Tensor) -> tuple[bool, bool]:
    """Whether two tensors have the same shape and strides, and whether they do once one is transposed."""
    layout = [*zip(weight.shape, weight.stride(), strict=True)]
    own = [*zip(tensor.shape, tensor.stride(), strict=True)]
    return own == layout, len(layout) > 1 and own == [*layout[:-2], layout[-1], layout[-2]]


def attention_chunks(model: nn.Module) -> dict[str, int]:
    """Find the weights that attention may use in parts: queries, keys and values."""
    names = {id(p): name for name, p in model.named_parameters()}
    packed = (m.in_proj_weight for m in model.modules() if isinstance(m, nn.MultiheadAttention))
    return {names[id(p)]: 3 for p in packed if p is not None}
