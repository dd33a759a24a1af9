"""Recording of torch loss functions with closed-form curvature inside a user's loss.

Most losses end in one of torch's: ``cross_entropy(output.logits.transpose(1, 2), labels)``. Torch
reports these calls, so the closed forms also hold for such losses, with class weights, ignored labels, smoothing
and any reduction.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from nbquant.nested import map_tensors, tensors_in

Loss = Callable[[Any, Any], Tensor]
"""loss(output, target) returns the mean loss of a batch, from the model's unchanged output."""


@dataclass(frozen=True, eq=False)
class Term:
    """A call of one of torch's losses.

    Attributes:
        z: Input compared with targets: logits, or values.
        value: Returned value.
        norm: Divisor of the sum over places; 0 if every label is ignored.
        mass: For a softmax, Σ_c t_c of each place, in z's shape without the classes; None for element-wise losses.
        dim: Dimension of the classes, for a softmax.
        target: Class of each place, for a softmax whose targets are classes.
        counts: Whether each place counts, for such a softmax: all but ignored labels.
        is_plain: Whether it is such a softmax without class weights or smoothing.
        again: For element-wise losses, the unreduced loss at other values.
    """

    z: Float[Tensor, "..."]
    value: Float[Tensor, "..."]
    norm: float
    mass: Float[Tensor, "..."] | None = None
    dim: int = 1
    again: Callable[[Tensor], Tensor] | None = None
    target: Int64[Tensor, "..."] | None = None
    counts: Bool[Tensor, "..."] | None = None
    is_plain: bool = False

    def slope_of_places(self, slope: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Compute ∂L/∂(unreduced loss of each place), from ∂L/∂value."""
        return slope / self.norm if self.norm else torch.zeros_like(slope)


@dataclass(frozen=True, eq=False)
class Recorded:
    """The value of a loss function, and the calls of torch's losses in it.

    Attributes:
        value: Returned value.
        terms: The calls on which the value depends, each with ∂value/∂term; empty if that is not constant.
        calls: All calls.
    """

    value: Any
    terms: tuple[tuple[Term, Float[Tensor, "..."]], ...]
    calls: tuple[Term, ...] = ()

    def mass(self, samples: int) -> float:
        """Count the terms that this batch's mean loss averages, so that batch means combine to that of all samples.

        For a single term it is the divisor: labels that count, or the sum of their class weights. Otherwise it
        is the number of samples.
        """
        if len(self.terms) != 1:
            return float(samples)
        ((term, slope),) = self.terms
        steepest = float(slope.abs().amax()) if slope.numel() else 0.0
        return term.norm / steepest if steepest > 0 else 0.0


def record(run: Callable[[], Any]) -> Recorded:
    """Run a loss, or a model and its loss, and record the calls of torch's losses.

    Args:
        run: Returns the loss. Terms are recorded if the tensors that it starts from require gradients.
    """
    with _Recorder() as recorder:
        value = run()
    return Recorded(value, _slopes(value, recorder.terms), tuple(recorder.terms))


def record_loss(loss: Loss, output: Any, target: Any) -> Recorded:
    """Compute and record the loss of a batch without a graph.

    Args:
        loss: The loss.
        output: The model's unchanged output.
        target: Targets.
    """
    with torch.no_grad():
        found = record(lambda: loss(output, target))
    if found.calls and not found.terms:  # the values of torch's losses are processed further: derivatives tell how
        with torch.enable_grad():
            apart = map_tensors(lambda t: t.detach().requires_grad_() if t.is_floating_point() else t, output)
            found = replace(found, terms=record(lambda: loss(apart, target)).terms)
    return found


def _slopes(value: Any, terms: Sequence[Term]) -> tuple[tuple[Term, Tensor], ...]:
    """∂value/∂term of the terms that matter; none if one of them depends on the outputs."""
    if not isinstance(value, Tensor) or value.ndim:
        return ()
    same = [term for term in terms if term.value is value]
    if same:
        return ((same[0], torch.ones_like(same[0].value).detach()),)
    terms = [term for term in terms if term.value.requires_grad]
    if not terms or not value.requires_grad:
        return ()
    with torch.enable_grad():
        slopes = torch.autograd.grad(value, [t.value for t in terms], create_graph=True, allow_unused=True)
    used = [(term, slope) for term, slope in zip(terms, slopes, strict=True) if slope is not None]
    return () if any(slope.requires_grad for _, slope in used) else tuple(used)


class _Recorder(TorchFunctionMode):
    """Records the calls of torch's losses."""

    def __init__(self) -> None:
        super().__init__()
        self.terms: list[Term] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        value = func(*args, **kwargs)
        make = _TERMS.get(func)
        if make is not None and isinstance(value, Tensor):
            bound = inspect.signature(func).bind(*args, **kwargs)
            bound.apply_defaults()
            given = bound.arguments
            z, *others = tensors_in(tuple(given.values()))
            current = given.get("size_average") is None and given.get("reduce") is None
            if current and z.is_floating_point() and not any(t.requires_grad for t in others):
                term = make(func, z, value, given)
                if term is not None:
                    self.terms.append(term)
        return value


def _cross_entropy(func: Callable[..., Any], z: Tensor, value: Tensor, given: dict[str, Any]) -> Term | None:
    """−Σ_c q_c log softmax(z)_c at each place, the masses q smoothed and weighted by class."""
    target, weight, smoothing = given["target"], given["weight"], float(given.get("label_smoothing", 0.0))
    dim = 1 if z.ndim > 1 else 0
    classes = z.shape[dim]
    is_plain = weight is None and smoothing == 0 and not target.is_floating_point()
    weight = torch.ones(classes, dtype=z.dtype, device=z.device) if weight is None else weight.to(z)
    if target.is_floating_point():
        shape = [classes if d == dim else 1 for d in range(z.ndim)]
        q = (1 - smoothing) * target.to(z.dtype) + smoothing / classes
        mass, norm, counts, labels = (q * weight.reshape(shape)).sum(dim), z.numel() / classes, None, None
    else:
        labels = target
        counts = target != given["ignore_index"]
        own = weight[target.where(counts, 0)] * counts
        mass = (1 - smoothing) * own + smoothing / classes * weight.sum() * counts
        norm = float(own.sum())
    return Term(
        z,
        value,
        norm if given["reduction"] == "mean" else 1.0,
        mass.detach(),
        dim,
        target=labels,
        counts=counts,
        is_plain=is_plain,
    )


def _nll(func: Callable[..., Any], z: Tensor, value: Tensor, given: dict[str, Any]) -> Term | None:
    """Cross-entropy from log-probabilities, which are the logarithm of their own softmax."""
    dim = 1 if z.ndim > 1 else 0
    return _cross_entropy(func, z, value, given) if _is_normalised(z, dim) else None


def _kl(func: Callable[..., Any], z: Tensor, value: Tensor, given: dict[str, Any]) -> Term | None:
    dim = next((d for d in (z.ndim - 1, 1) if 0 <= d < z.ndim and _is_normalised(z, d)), None)
    if dim is None or given["target"].shape != z.shape or given["reduction"] == "none":
        return None
    target = given["target"].exp() if given["log_target"] else given["target"]
    norm = {"mean": float(z.numel()), "batchmean": float(len(z)), "sum": 1.0}[given["reduction"]]
    return Term(z, value, norm, target.sum(dim).detach(), dim)


def _is_normalised(z: Tensor, dim: int) -> bool:
    return bool(z.detach().logsumexp(dim).abs().amax() < 1e-3) if z.numel() else False


def _entries(func: Callable[..., Any], z: Tensor, value: Tensor, given: dict[str, Any]) -> Term | None:
    """An element-wise loss; its second derivative is that of the sum."""
    if func in (functional.mse_loss, functional.huber_loss) and given["weight"] is not None:
        return None
    if z is not given["input"] or any(t.numel() > z.numel() for t in tensors_in(given["target"])):
        return None
    others = {key: item for key, item in given.items() if key not in ("input", "reduction")}

    def again(other: Tensor) -> Tensor:
        return func(other, **{key: item for key, item in others.items() if item is not None}, reduction="none")

    return Term(z, value, float(z.numel()) if given["reduction"] == "mean" else 1.0, again=again)


_TERMS: dict[Callable[..., Any], Callable[..., Term | None]] = {
    functional.cross_entropy: _cross_entropy,
    functional.nll_loss: _nll,
    functional.kl_div: _kl,
    functional.mse_loss: _entries,
    functional.binary_cross_entropy_with_logits: _entries,
    functional.binary_cross_entropy: _entries,
    functional.smooth_l1_loss: _entries,
    functional.huber_loss: _entries,
    functional.poisson_nll_loss: _entries,
    functional.soft_margin_loss: _entries,
}
