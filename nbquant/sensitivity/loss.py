"""Derivatives of the loss with respect to the network's output, one sample at a time.

Throughout, z is a batch of outputs [B, ...] and K the number of outputs a sample; ℓ(z_n, t_n) is the loss of a single
sample, the loss of a batch being their mean. Cross-entropy and squared error have closed forms; any other loss is
differentiated on batches of one.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from nbquant.nested import map_tensors
from nbquant.sensitivity.batch import has_samples, sample_dims

Loss = Callable[[Any, Any], Tensor]
Block = tuple[float, Float[Tensor, "v batch ..."]]
"""A sign and vectors in output space: h += sign · Σ_v (Jᵀ vector)²."""

MAX_COLUMNS = 20_000
MAX_OUTPUTS = 2_048  # of a loss without closed form: its K × K Hessian is formed for every sample
_BLOCK = 1 << 24  # entries of one block of columns
_NO_VMAP = (RuntimeError, NotImplementedError, ValueError, TypeError)


def is_known(loss: Loss) -> str | None:
    """Name of the closed form that fits ``loss``: "cross_entropy", "mse", or None."""
    if loss is functional.cross_entropy:
        return "cross_entropy"
    if loss is functional.mse_loss:
        return "mse"
    if type(loss) is nn.MSELoss and loss.reduction == "mean":
        return "mse"
    if type(loss) is nn.CrossEntropyLoss and loss.reduction == "mean" and loss.weight is None:
        return "cross_entropy" if loss.label_smoothing == 0 and loss.ignore_index == -100 else None
    return None


def single_losses(loss: Loss, z: Float[Tensor, "batch ..."], target: Any) -> Float[Tensor, " batch"]:
    """Loss of each sample, as a batch of one."""
    return torch.stack([loss(z[n : n + 1], _sample(target, n, len(z))).reshape(()) for n in range(len(z))])


def gradient(loss: Loss, z: Float[Tensor, "batch ..."], target: Any) -> Float[Tensor, "batch ..."]:
    """∂ℓ(z_n, t_n)/∂z_n for every sample."""
    target = _like(target, z)
    if is_known(loss):
        if is_known(loss) == "cross_entropy":
            _target_mass(z, target)
        leaf = z.detach().requires_grad_()
        return torch.autograd.grad(loss(leaf, target), leaf)[0] * len(z)
    try:
        return _vmap(torch.func.grad(_on_one(loss, len(z), target)), z, target)
    except _NO_VMAP:
        leaf = z.detach().requires_grad_()
        return torch.autograd.grad(single_losses(loss, leaf, target).sum(), leaf)[0]


def hessian_diagonal(loss: Loss, z: Float[Tensor, "batch ..."], target: Any) -> Float[Tensor, "batch ..."]:
    """∂²ℓ(z_n, t_n)/∂z_n² for every output of every sample."""
    match is_known(loss):
        case "cross_entropy":
            p = z.softmax(1)
            return p * (1 - p) * _target_mass(z, target).unsqueeze(1) / z[0, 0].numel()
        case "mse":
            return torch.full_like(z, 2 / z[0].numel())
        case _:
            return _hessian(loss, z, target).diagonal(dim1=1, dim2=2).reshape(z.shape)


def hessian_columns(loss: Loss, z: Float[Tensor, "batch ..."], target: Any) -> Iterator[Block]:
    """Columns of S with ∇²ℓ = S Sᵀ, in blocks; two sets, of opposite sign, where ∇²ℓ is not semidefinite.

    For cross-entropy, diag(p) − p pᵀ = R Rᵀ with R = diag(√p)(I − √p √pᵀ). The Householder reflection Q that takes √p
    to an axis turns R into R Q, whose first column is zero: one backward pass fewer than there are classes.

    Raises:
        ValueError: More columns than backward passes are reasonable.
    """
    match is_known(loss):
        case "cross_entropy":
            mass, places = _target_mass(z, target), z[0, 0].numel()
            classes = z.shape[1]
            _check_columns((classes - 1) * places)
            root = z.softmax(1).sqrt().reshape(len(z), classes, places)
            scale = (mass / places).sqrt().reshape(len(z), places)
            for start, stop in _ranges(classes - 1, z.numel()):
                index = torch.arange(start + 1, stop + 1, device=z.device)
                factor = (root[:, index] / (1 + root[:, :1])).transpose(0, 1)  # [v, B, places]
                columns = -root * root * factor.unsqueeze(2)
                columns[:, :, 0] -= root[:, 0] * factor
                columns[torch.arange(len(index), device=z.device), :, index] += root[:, index].transpose(0, 1)
                columns *= scale[None, :, None]
                if places == 1:
                    yield 1.0, columns.reshape(len(columns), *z.shape)
                    continue
                for place in range(places):  # places do not share curvature: one at a time
                    apart = torch.zeros_like(columns)
                    apart[..., place] = columns[..., place]
                    yield 1.0, apart.reshape(len(columns), *z.shape)
        case "mse":
            outputs = z[0].numel()
            _check_columns(outputs)
            for start, stop in _ranges(outputs, z.numel()):
                columns = z.new_zeros(stop - start, len(z), outputs)
                columns[torch.arange(stop - start), :, torch.arange(start, stop)] = math.sqrt(2 / outputs)
                yield 1.0, columns.reshape(stop - start, *z.shape)
        case _:
            for sign, factor in _factors(_hessian(loss, z, target)):
                for start, stop in _ranges(len(factor), z.numel()):
                    yield sign, factor[start:stop].reshape(stop - start, *z.shape)


def hessian_draws(
    loss: Loss, z: Float[Tensor, "batch ..."], target: Any, draws: int, generator: torch.Generator
) -> Iterator[Block]:
    """Random vectors v with E[v vᵀ] = ∇²ℓ, one a sample and draw.

    For cross-entropy p − y with the label y drawn from the network's own distribution p; else S r, r of random signs.
    """
    match is_known(loss):
        case "cross_entropy":
            mass, places = _target_mass(z, target), z[0, 0].numel()
            p = z.softmax(1).movedim(1, -1)  # [B, *, C]
            labels = torch.multinomial(p.reshape(-1, p.shape[-1]), draws, replacement=True, generator=generator)
            scale = (mass / (places * draws)).sqrt().unsqueeze(-1)
            blocks = [
                ((p - functional.one_hot(label, p.shape[-1]).reshape(p.shape)) * scale).movedim(-1, 1)
                for label in labels.T
            ]
            yield 1.0, torch.stack(blocks)
        case "mse":
            signs = _signs((draws, *z.shape), z, generator)
            yield 1.0, signs * math.sqrt(2 / (z[0].numel() * draws))
        case _:
            for sign, factor in _factors(_hessian(loss, z, target)):
                signs = _signs((draws, len(factor), len(z)), z, generator)
                vectors = torch.einsum("dvb,vbk->dbk", signs, factor) / math.sqrt(draws)
                yield sign, vectors.reshape(draws, *z.shape)


def _target_mass(z: Tensor, target: Any) -> Float[Tensor, "batch ..."]:
    """Σ_c t_c of every place: 1 for a class index."""
    if torch.is_tensor(target) and target.is_floating_point() and target.shape == z.shape:
        return target.sum(1)
    if int((target == -100).sum()):
        raise ValueError(
            f"{int((target == -100).sum())} of {target.numel()} targets are -100 (ignored), so the mean over samples "
            "is not defined: leave them out, or pass a loss of your own that averages over a sample's other places."
        )
    return torch.ones_like(z.select(1, 0))


def _like(target: Any, z: Tensor) -> Any:
    return map_tensors(lambda t: t.to(z.dtype) if t.is_floating_point() else t, target)


def _sample(target: Any, n: int, size: int) -> Any:
    return map_tensors(lambda t: t[n : n + 1] if has_samples(t, size) else t, target)


def _vmap(derivative: Callable[..., Tensor], z: Tensor, target: Any) -> Tensor:
    """``derivative(z_n, t_n)`` for every sample at once."""
    dims = sample_dims(target, len(z))
    return torch.func.vmap(derivative, in_dims=(0, dims), randomness="different")(z, target)


def _on_one(loss: Loss, size: int, target: Any) -> Callable[[Tensor, Any], Tensor]:
    dims = sample_dims(target, size)

    def batched(part: Any, dim: Any) -> Any:
        if isinstance(part, Mapping):
            return {key: batched(item, dim[key]) for key, item in part.items()}
        if isinstance(part, tuple | list):
            return type(part)(batched(item, d) for item, d in zip(part, dim, strict=True))
        return part if dim is None else part.unsqueeze(0)

    return lambda z, target: loss(z.unsqueeze(0), batched(target, dims)).reshape(())


def _hessian(loss: Loss, z: Float[Tensor, "batch ..."], target: Any) -> Float[Tensor, "batch k k"]:
    outputs = z[0].numel()
    if outputs > MAX_OUTPUTS:
        raise ValueError(
            f"a loss without closed form allows at most {MAX_OUTPUTS} outputs a sample here, but there are {outputs}: "
            'use the plain cross_entropy (classes along dimension 1) or mse_loss, or method="empirical_fisher".'
        )
    target, shape = _like(target, z), z.shape[1:]
    try:
        full = _vmap(torch.func.jacrev(torch.func.jacrev(_on_one(loss, len(z), target))), z, target)
    except _NO_VMAP:
        full = torch.stack(
            [
                torch.autograd.functional.hessian(
                    lambda y, n=n: loss(y[None], _sample(target, n, len(z))).reshape(()), z[n]
                )
                for n in range(len(z))
            ]
        )
    return full.detach().reshape(len(z), math.prod(shape), math.prod(shape))


def _factors(hessian: Float[Tensor, "batch k k"]) -> Iterator[tuple[float, Float[Tensor, "v batch k"]]]:
    """Columns √|λ|·q of the positive, then of the negative eigenvalues; none that is zero for every sample."""
    values, vectors = torch.linalg.eigh(hessian)
    floor = values.abs().amax() * hessian.shape[-1] * torch.finfo(values.dtype).eps
    for sign in (1.0, -1.0):
        size = (sign * values).where(sign * values > floor, values.new_zeros(()))
        used = size.any(0)
        if used.any():
            yield sign, (vectors * size.sqrt().unsqueeze(1))[:, :, used].permute(2, 0, 1)


def _signs(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Shaped[Tensor, "..."]:
    return torch.randint(0, 2, shape, generator=generator, device=like.device).to(like.dtype) * 2 - 1


def _ranges(count: int, entries: int) -> Iterator[tuple[int, int]]:
    step = max(1, _BLOCK // max(entries, 1))
    for start in range(0, count, step):
        yield start, min(start + step, count)


def _check_columns(columns: int) -> None:
    if columns > MAX_COLUMNS:
        raise ValueError(
            f"the exact Gauss-Newton diagonal needs {columns} backward passes a batch here, more than {MAX_COLUMNS}: "
            'use method="gauss_newton_sampled".'
        )
