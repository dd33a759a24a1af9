"""Copies of models that share no tensor and no class with the original."""

import copy
import gc
import types
import weakref
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

M = TypeVar("M", bound=nn.Module)

_SHARED_BY_COPIES = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, property, weakref.ref)


def duplicate(model: M) -> M:
    """Copy a model, so that nothing done to the copy changes the original.

    It avoids two faults of ``copy.deepcopy``, which refuses tensors with a gradient function, such as the weights that
    ``torch.nn.utils.prune`` and the older ``weight_norm`` compute; and which leaves copies of parametrized modules in
    the class of the original, which torch changes when a parametrization is added or removed.

    Tied parameters, shared modules and modes are preserved. A plain attribute that is a view of a parameter becomes
    a view of the copy's parameter. Any other tensor with a gradient function becomes a constant of the same values.

    Args:
        model: Any module; only read.

    Raises:
        ValueError: A part that cannot be copied, such as frozen weights of optimum-quanto.
    """
    memo: dict[int, Any] = {}
    with torch.no_grad():
        for tensor in _computed_tensors(model):
            memo[id(tensor)] = _view_in_copy(tensor, memo) if _is_view(tensor) else tensor.detach().clone()
    try:
        duplicated = copy.deepcopy(model, memo)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise ValueError(
            f"a model that can be copied is required, but this {type(model).__name__} cannot be "
            f"({str(error).partition('. ')[0]}): remove the part that cannot be copied, or pass the model as it was "
            "before another library quantized it."
        ) from error
    for copied in list(memo.values()):  # also modules in plain lists, which modules() does not find
        if isinstance(copied, nn.Module) and is_parametrized(copied):
            copied.__class__ = _own_class(type(copied))
    return duplicated


def _computed_tensors(model: nn.Module) -> Iterator[Tensor]:
    """Tensors with a gradient function that a deep copy of the model would meet."""
    seen, queue = {id(model)}, [model]
    while queue:
        found = queue.pop()
        if isinstance(found, Tensor) and not found.is_leaf:
            yield found
            continue
        for other in gc.get_referents(found):
            if id(other) not in seen and not isinstance(other, _SHARED_BY_COPIES):
                seen.add(id(other))
                queue.append(other)


def _is_view(tensor: Tensor) -> bool:
    base = tensor._base
    return isinstance(base, nn.Parameter) and base.is_contiguous() and tensor.dtype == base.dtype


def _view_in_copy(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    base = tensor._base
    assert base is not None
    offset = tensor.storage_offset() - base.storage_offset()
    with torch.enable_grad():
        return copy.deepcopy(base, memo).as_strided(tensor.shape, tensor.stride(), offset)


def _own_class(shared: type) -> type:
    """Copy the class that torch made for a parametrized module, for one module alone."""
    members = {name: value for name, value in vars(shared).items() if name not in ("__dict__", "__weakref__")}
    return type(shared.__name__, shared.__bases__, members)
