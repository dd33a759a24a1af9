"""Detection of every call that multiplies inputs by a weight, whichever module makes it."""

import math
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from nbquant.sensitivity.layers import windows
from nbquant.sensitivity.loss import wide
from nbquant.sensitivity.weight_views import Found, Weights


@dataclass(frozen=True, eq=False)
class Use:
    """One call that multiplies inputs by a weight.

    Attributes:
        weight: Name of the weight.
        along: Whether the first axis of the weight is the input.
        groups: Number of groups of outputs, each with its own inputs.
        within: The groups whose outputs this call computes.
        count: Number of places: samples, words, pixels.
        seen: Function from indices of places to the vectors multiplied by a weight row there.
        stacked: Whether the weight is a stack of matrices, one per group.
        squares: Function from output gradients to their sums of squares over places.
        rows: For an embedding table: number of look-ups of each row. It has no second moments.
    """

    weight: str
    along: bool
    groups: int
    within: slice
    count: int
    seen: Callable[[Int64[Tensor, " n"]], Float[Tensor, "groups n d"]]
    squares: Callable[[Tensor], Float[Tensor, " rows"]]
    rows: Float[Tensor, " vocabulary"] | None = None
    stacked: bool = False


class Watch(TorchFunctionMode):
    """Calls back on every use of some weights while it is entered."""

    def __init__(
        self, weights: Weights, before: Callable[[Use], None], after: Callable[[Use, Tensor], None] | None = None
    ) -> None:
        """Watch for weights.

        Args:
            weights: Weights to watch.
            before: Called before each use; may raise to end the run.
            after: Called with the output of each use.
        """
        super().__init__()
        self._weights, self._before, self._after = weights, before, after

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """See :class:`torch.overrides.TorchFunctionMode`."""
        kwargs = kwargs or {}
        if func is functional.multi_head_attention_forward:
            with _linear_calls(self):
                return func(*args, **kwargs)
        reader = _READERS.get(func)
        use = reader(self._weights, *args, **kwargs) if reader else None
        if use is None:
            return func(*args, **kwargs)
        self._before(use)
        output = func(*args, **kwargs)
        if self._after:
            self._after(use, output)
        return output


_LINEAR = functional.linear
_inside = threading.local()
_lock = threading.Lock()
_entered = 0


@contextmanager
def _linear_calls(watch: Watch) -> Iterator[None]:
    """Report to ``watch`` the linear calls within attention, which a mode sees as one function."""
    global _entered
    before, _inside.watch = getattr(_inside, "watch", None), watch
    with _lock:
        _entered += 1
        functional.linear = _watched_linear
    try:
        yield
    finally:
        _inside.watch = before
        with _lock:
            _entered -= 1
            if not _entered:
                functional.linear = _LINEAR


def _watched_linear(*args: Any, **kwargs: Any) -> Any:
    watch = getattr(_inside, "watch", None)
    return _LINEAR(*args, **kwargs) if watch is None else watch.__torch_function__(_LINEAR, (), args, kwargs)


def _flat(x: Tensor) -> Tensor:
    return x.detach().reshape(-1, x.shape[-1])


def _dense(weights: Weights, found: Found, x: Callable[[], Float[Tensor, "places d"]], count: int, along: bool) -> Use:
    """A use in which every place computes all rows at once."""
    name, first, rows, *_ = found
    groups = weights.rows(name) if found.picked else weights.chunks.get(name, 1)
    chunk = weights.rows(name) // groups
    within = slice(first // chunk, (first + rows) // chunk)

    def squares(g: Tensor) -> Tensor:
        return _flat(g).to(wide(g.dtype)).square().sum(0)

    def seen(index: Int64[Tensor, " n"]) -> Tensor:
        return x()[index][None]

    return Use(name, along, groups, within, count, seen, squares, stacked=found.picked)


def _linear(weights: Weights, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Use | None:
    found = weights.find(weight)
    if found is None or weight.ndim != 2 or (found.transposed and not found.picked):
        return None
    return _dense(weights, found, lambda: _flat(input), math.prod(input.shape[:-1]), along=found.transposed)


def _matmul(weights: Weights, input: Tensor, other: Tensor, **_: Any) -> Use | None:
    found = weights.find(other)
    if found is not None and other.ndim == 3:
        return _stack(found, input)
    if found is None or other.ndim != 2 or input.ndim < 1 or (found.first and not found.picked):
        return None
    return _dense(weights, found, lambda: _flat(input), math.prod(input.shape[:-1]), along=not found.transposed)


def _stack(found: Found, input: Tensor) -> Use | None:
    """All matrices of a stack at once, each with its own batch [places, in], or all with the same."""
    name, _, groups, transposed, _ = found
    if input.ndim not in (2, 3) or (input.ndim == 3 and len(input) not in (1, groups)):
        return None
    x = input.detach() if input.ndim == 3 else input.detach()[None]

    def seen(index: Int64[Tensor, " n"]) -> Tensor:
        return x[:, index].expand(groups, -1, -1)

    def squares(g: Tensor) -> Tensor:
        return g.detach().to(wide(g.dtype)).square().sum(1).flatten()

    return Use(name, not transposed, groups, slice(0, groups), x.shape[1], seen, squares, stacked=True)


def _einsum(weights: Weights, equation: Any, *operands: Any) -> Use | None:
    """Batched matrix products by einsum, with the inputs first, such as "ecd,edh->ech"."""
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    if not isinstance(equation, str) or len(operands) != 2 or operands[1].ndim != 3:
        return None
    match = re.fullmatch(r"(\w)(\w)(\w),\1(\w)(\w)->\1\2(\w)", equation.replace(" ", ""))
    found = weights.find(operands[1]) if match and len({*match.groups()[:3]}) == 3 else None
    if found is None or match is None:
        return None
    *taken, a, b, output = match.groups()
    inputs = taken[2]
    if {a, b} != {inputs, output} or output in taken:
        return None
    return _stack(found._replace(transposed=found.transposed != (b == inputs)), operands[0])


def _addmm(weights: Weights, input: Tensor, mat1: Tensor, mat2: Tensor, **scales: Any) -> Use | None:
    return None if any(value != 1 for value in scales.values()) else _matmul(weights, mat1, mat2)


def _bilinear(
    weights: Weights, input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Use | None:
    found = weights.find(weight)
    if found is None or weight.ndim != 3:
        return None

    def product() -> Tensor:
        return (_flat(input1)[:, :, None] * _flat(input2)[:, None]).flatten(1)

    return _dense(weights, found, product, math.prod(input1.shape[:-1]), along=False)


def _convolution(
    weights: Weights,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Use | None:
    found = weights.find(weight)
    if found is None or found.transposed:
        return None
    dims = weight.ndim - 2
    x = input.detach() if input.ndim > dims + 1 else input.detach()[None]
    view = windows(_geometry(weight, stride, padding, dilation, groups), x)
    places = view.shape[3 + dims :]
    each = math.prod(places)

    def seen(index: Int64[Tensor, " n"]) -> Tensor:
        at = torch.unravel_index(index % each, places)
        keep = (slice(None),) * (2 + dims)
        where: Any = (index // each, *keep, *at)
        return view[where].flatten(2).transpose(0, 1)

    return Use(found.name, False, groups, slice(0, groups), len(x) * each, seen, lambda g: _per_channel(g, dims))


def _transposed(
    weights: Weights,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Use | None:
    """A linear layer at each place of the input, whose outputs are added where they overlap."""
    found = weights.find(weight)
    if found is None or found.transposed:
        return None
    dims = weight.ndim - 2
    x = input.detach() if input.ndim > dims + 1 else input.detach()[None]
    each = math.prod(x.shape[2:])

    def seen(index: Int64[Tensor, " n"]) -> Tensor:
        return x.flatten(2)[index // each, :, index % each].unflatten(1, (groups, -1)).transpose(0, 1)

    def squares(g: Tensor) -> Tensor:
        g = g.detach().to(wide(g.dtype))
        view = windows(_geometry(weight, stride, padding, dilation, groups), g if g.ndim > dims + 1 else g[None])
        inside: Any = (..., *(slice(0, size) for size in x.shape[2:]))
        view = view[inside]
        return view.square().sum((0, *range(view.ndim - dims, view.ndim))).flatten()

    return Use(found.name, True, groups, slice(0, groups), len(x) * each, seen, squares)


def _embedding(
    weights: Weights,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    *_: Any,
    **__: Any,
) -> Use | None:
    found = weights.find(weight)
    if found is None or max_norm is not None:
        return None
    rows = torch.bincount(input.flatten(), minlength=len(weight)).double().cpu()
    if padding_idx is not None:
        rows[padding_idx] = 0

    def none(index: Int64[Tensor, " n"]) -> Tensor:
        raise AssertionError("an embedding table has no second moments")

    def squares(g: Tensor) -> Tensor:
        return _flat(g).to(wide(g.dtype)).square().sum(0)

    return Use(found.name, False, 1, slice(0, 1), input.numel(), none, squares, rows)


def _per_channel(g: Tensor, dims: int) -> Float[Tensor, " rows"]:
    g = g.detach().to(wide(g.dtype))
    return (g if g.ndim > dims + 1 else g[None]).flatten(2).square().sum((0, 2))


def _geometry(weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    """The geometry of a convolution, as required by :func:`nbquant.sensitivity.layers.windows`."""
    dims = weight.ndim - 2

    def each(value: Any) -> tuple[int, ...]:
        return (value,) * dims if isinstance(value, int) else tuple(value) * (dims if len(value) == 1 else 1)

    pads = padding if isinstance(padding, str) else each(padding)
    return SimpleNamespace(
        kernel_size=tuple(weight.shape[2:]), stride=each(stride), padding=pads, dilation=each(dilation), groups=groups,
        padding_mode="zeros",
    )  # fmt: skip


_READERS: dict[Any, Callable[..., Use | None]] = {
    _LINEAR: _linear,
    torch.addmm: _addmm,
    functional.bilinear: _bilinear,
    functional.embedding: _embedding,
    torch.einsum: _einsum,
    **dict.fromkeys((torch.matmul, torch.mm, torch.bmm), _matmul),
    **dict.fromkeys((torch.Tensor.matmul, torch.Tensor.mm, torch.Tensor.bmm, torch.Tensor.__matmul__), _matmul),
    **dict.fromkeys((functional.conv1d, functional.conv2d, functional.conv3d), _convolution),
    **dict.fromkeys(
        (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d), _transposed
    ),
}
