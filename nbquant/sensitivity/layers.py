"""Squared per-sample gradients of a layer, from its input and its output gradients.

Every function takes a layer, its input x [B, ...], and gradients g [v, B, ...] with respect to its output, and returns
Σ_v Σ_n (∂/∂θ of sample n)² for the requested parameters. Where a weight is used at several places of a sample (the
pixels of a convolution, the words of a sentence), the places are added before squaring.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from nbquant.sensitivity.loss import wide

Squares = dict[str, Tensor]
_CHUNK = 1 << 19  # entries of the largest temporary: small enough to stay in the cache


def squared_gradients(
    layer: nn.Module, inputs: tuple[Any, ...], g: Float[Tensor, "v batch ..."], names: frozenset[str]
) -> Squares:
    """Compute Σ_v Σ_n (per-sample gradient)² of the parameters ``names`` of ``layer``.

    Args:
        layer: A layer for which :func:`is_supported` holds.
        inputs: Its arguments, the first of them x.
        g: Gradients with respect to its output.
        names: Names of the layer's own parameters, such as "weight".
    """
    dtype = wide(g.dtype)
    x, *others = inputs
    x = x.detach().to(dtype) if x.is_floating_point() else x.detach()
    formula = _formula(layer)
    assert formula is not None
    return formula(layer, x, g.to(dtype), names, *others)


def is_supported(layer: nn.Module) -> bool:
    """Whether there is a formula for this layer: its class's, or that of the class whose ``forward`` it inherits."""
    if _formula(layer) is None:
        return False
    if isinstance(layer, nn.modules.conv._ConvNd):
        return layer.padding_mode == "zeros"
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        return layer.running_mean is not None
    if isinstance(layer, nn.Embedding):
        return layer.max_norm is None and not layer.scale_grad_by_freq
    if isinstance(layer, nn.EmbeddingBag):
        return layer.max_norm is None and not layer.scale_grad_by_freq and layer.mode in ("sum", "mean")
    return True


def samples_of(layer: nn.Module, inputs: Sequence[Any]) -> int | None:
    """Count the samples of a layer, if each is a row of its input or has an offset; None otherwise."""
    x, *others = inputs
    if isinstance(layer, nn.EmbeddingBag) and x.ndim == 1:
        offsets = offsets_of(others)
        return None if offsets is None else len(offsets) - layer.include_last_offset
    return None if x.ndim < 2 - isinstance(layer, nn.Embedding | nn.PReLU) else len(x)


def parameters_of(layer: nn.Module) -> tuple[str, ...]:
    """Name the parameters covered by a layer's formula."""
    return ("weight", "bias") if _formula(layer) is not None else ()


def _formula(layer: nn.Module) -> Callable[..., Squares] | None:
    """The formula of the class from which a layer inherits its ``forward``."""
    if "forward" in vars(layer):
        return None
    own = type(layer).forward
    for kind in type(layer).__mro__:
        if kind in _LAYERS:
            same = own is kind.forward and getattr(type(layer), "_conv_forward", None) is getattr(
                kind, "_conv_forward", None
            )
            return _LAYERS[kind] if same else None
    # transformers is optional
    if type(layer).__name__ == "Conv1D" and type(layer).__module__ == "transformers.pytorch_utils":
        return _transposed_linear
    return None


def _linear(layer: nn.Module, x: Tensor, g: Tensor, names: frozenset[str]) -> Squares:
    out: Squares = {}
    if x.ndim == 2:  # (g_o x_i)² = g_o² x_i²: one matrix product for all samples and vectors
        energy = g.square().sum(0)
        if "weight" in names:
            out["weight"] = energy.T @ x.square()
        if "bias" in names:
            out["bias"] = energy.sum(0)
        return out
    x, g = x.flatten(1, -2), g.flatten(2, -2)
    if "weight" in names:
        out["weight"] = _outer(g.transpose(2, 3).unsqueeze(2), x.transpose(1, 2).unsqueeze(1))[0]
    if "bias" in names:
        out["bias"] = g.sum(2).square().sum((0, 1))
    return out


def _transposed_linear(layer: nn.Module, x: Tensor, g: Tensor, names: frozenset[str]) -> Squares:
    """The ``Conv1D`` of GPT-2: a linear layer whose weight is [in, out]."""
    found = _linear(layer, x, g, names)
    return {name: square.T if name == "weight" else square for name, square in found.items()}


def _convolution(layer: nn.modules.conv._ConvNd, x: Tensor, g: Tensor, names: frozenset[str]) -> Squares:
    out: Squares = {}
    g = g.flatten(3)
    if "weight" in names:
        split = g.unflatten(2, (layer.groups, -1))  # [v, B, groups, out, places]
        out["weight"] = _outer(split, windows(layer, x)).reshape(layer.weight.shape)
    if "bias" in names:
        out["bias"] = g.sum(3).square().sum((0, 1))
    return out


def _transposed_convolution(
    layer: nn.modules.conv._ConvTransposeNd, x: Tensor, g: Tensor, names: frozenset[str], *_: Any
) -> Squares:
    """A convolution of the gradients: every input place meets the kernel's window of the output."""
    out: Squares = {}
    if "weight" in names:
        rows = x.flatten(2).unflatten(1, (layer.groups, -1)).unsqueeze(0)  # [1, B, groups, in, places]
        total = torch.zeros(layer.weight.shape, dtype=g.dtype, device=g.device)
        for vector in g:
            seen = windows(layer, vector)
            # An output padding adds places without input.
            for d, n in enumerate(x.shape[2:]):
                seen = seen.narrow(d + 3 + len(layer.kernel_size), 0, n)
            total += _outer(rows, seen).reshape(layer.weight.shape)
        out["weight"] = total
    if "bias" in names:
        out["bias"] = g.flatten(3).sum(3).square().sum((0, 1))
    return out


def _prelu(layer: nn.PReLU, x: Tensor, g: Tensor, names: frozenset[str]) -> Squares:
    """Slopes per channel (the second dimension), or one for all entries."""
    product = g * x.clamp(max=0)
    if layer.num_parameters == 1:
        return {"weight": product.flatten(2).sum(2).square().sum().reshape(1)}
    places = tuple(range(3, g.ndim))
    return {"weight": (product.sum(places) if places else product).square().sum((0, 1))}


def windows(layer: nn.modules.conv._ConvNd, x: Tensor) -> Float[Tensor, "batch groups inputs *k_and_places"]:
    """Unfold the inputs seen by the kernel at every place, as a view: [B, groups, in/groups, *kernel, *places]."""
    dims = len(layer.kernel_size)
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        pads = [(int(p), int(p)) for p in layer.padding]
    elif layer.padding == "same":
        totals = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        pads = [(total // 2, total - total // 2) for total in totals]
    elif layer.padding == "valid":
        pads = [(0, 0)] * dims
    else:
        pads = [(int(p), int(p)) for p in layer.padding]
    if any(sum(pad) for pad in pads):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x = functional.pad(x, [p for pad in reversed(pads) for p in pad], mode)
    x = x.contiguous()
    places = [
        (size - d * (k - 1) - 1) // s + 1
        for size, d, k, s in zip(x.shape[2:], layer.dilation, layer.kernel_size, layer.stride, strict=True)
    ]
    batch, channel, *steps = x.stride()
    inputs = x.shape[1] // layer.groups
    return x.as_strided(
        (len(x), layer.groups, inputs, *layer.kernel_size, *places),
        (
            batch,
            channel * inputs,
            channel,
            *(step * d for step, d in zip(steps, layer.dilation, strict=True)),
            *(step * s for step, s in zip(steps, layer.stride, strict=True)),
        ),
    )


def _outer(g: Float[Tensor, "v batch groups out places"], windows: Tensor) -> Float[Tensor, "groups out inputs"]:
    """Σ_v Σ_n (Σ_place g · window)², a few samples at a time, so that the unfolded input never exists as a whole."""
    vectors, batch, groups, outs, places = g.shape
    channels = windows.shape[2]
    each = math.prod(windows.shape[3:]) // places  # inputs of a channel
    total = g.new_zeros(groups, outs, channels * each)
    entries = groups * each * max(places, vectors * outs)  # of a channel and sample
    some = max(1, min(channels, _CHUNK // entries))
    chunk = max(1, _CHUNK // (entries * some))
    for start in range(0, batch, chunk):
        rows = g[:, start : start + chunk].permute(1, 2, 0, 3, 4).flatten(2, 3)  # [b, groups, v·out, places]
        for first in range(0, channels, some):
            unfolded = windows[start : start + chunk, :, first : first + some]
            unfolded = unfolded.reshape(len(unfolded), groups, -1, places)
            squared = (rows @ unfolded.transpose(2, 3)).square_().sum(0)
            of_vectors = squared if vectors == 1 else squared.unflatten(1, (vectors, outs)).sum(1)
            total[..., each * first : each * (first + some)] += of_vectors
    return total


def _affine(x_hat: Tensor, g: Tensor, names: frozenset[str], places: tuple[int, ...]) -> Squares:
    """Y = weight · x̂ + bias; ``places`` are the dimensions of g over which the parameters are shared."""
    out: Squares = {}
    if "weight" in names:
        product = g * x_hat
        out["weight"] = (product.sum(places) if places else product).square().sum((0, 1))
    if "bias" in names:
        out["bias"] = (g.sum(places) if places else g).square().sum((0, 1))
    return out


def _batch_norm(layer: nn.BatchNorm2d, x: Tensor, g: Tensor, names: frozenset[str]) -> Squares:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    x_hat = functional.batch_norm(x, layer.running_mean.to(x.dtype), layer.running_var.to(x.dtype), eps=layer.eps)
    return _affine(x_hat, g, names, tuple(range(3, g.ndim)))


def _group_norm(layer: nn.GroupNorm, x: Tensor, g: Tensor, names: frozenset[str]) -> Squares:
    return _affine(functional.group_norm(x, layer.num_groups, eps=layer.eps), g, names, tuple(range(3, g.ndim)))


def _layer_norm(layer: nn.LayerNorm, x: Tensor, g: Tensor, names: frozenset[str]) -> Squares:
    x_hat = functional.layer_norm(x, layer.normalized_shape, eps=layer.eps)
    return _affine(x_hat, g, names, tuple(range(2, g.ndim - len(layer.normalized_shape))))


def _rms_norm(layer: nn.RMSNorm, x: Tensor, g: Tensor, names: frozenset[str]) -> Squares:
    x_hat = functional.rms_norm(x, layer.normalized_shape, eps=layer.eps)
    return _affine(x_hat, g, names, tuple(range(2, g.ndim - len(layer.normalized_shape))))


def _embedding(layer: nn.Embedding, x: Tensor, g: Tensor, names: frozenset[str]) -> Squares:
    """Equal words of a sample share a row: their gradients are added before squaring."""
    rows = layer.num_embeddings
    sample = torch.arange(len(x), device=x.device).reshape(-1, *([1] * (x.ndim - 1)))
    pairs, index = torch.unique(sample * rows + x, return_inverse=True)
    out = g.new_zeros(rows, layer.embedding_dim)
    for vector in g:
        summed = vector.new_zeros(len(pairs), layer.embedding_dim)
        summed.index_add_(0, index.flatten(), vector.reshape(-1, layer.embedding_dim))
        out.index_add_(0, pairs % rows, summed.square_())
    if layer.padding_idx is not None:
        out[layer.padding_idx] = 0
    return {"weight": out}


def _embedding_bag(layer: nn.EmbeddingBag, x: Tensor, g: Tensor, names: frozenset[str], *others: Any) -> Squares:
    """Bags as rows of ids, or concatenated with offsets; the weights of repeated ids are added first."""
    if x.ndim == 1:
        offsets = offsets_of(others)
        assert offsets is not None
        if layer.include_last_offset:
            x, offsets = x[: int(offsets[-1])], offsets[:-1]
        sample = torch.bucketize(torch.arange(len(x), device=x.device), offsets, right=True) - 1
    else:
        sample = torch.arange(len(x), device=x.device).repeat_interleave(x.shape[1])
    x = x.flatten()
    counts = (x != layer.padding_idx) if layer.padding_idx is not None else torch.ones_like(x, dtype=torch.bool)
    factor = counts.to(g.dtype)
    own = next((w for w in others if isinstance(w, Tensor) and w.is_floating_point()), None)
    if own is not None:
        factor = factor * own.detach().flatten()[: len(x)].to(g.dtype)
    elif layer.mode == "mean":
        factor = factor / g.new_zeros(g.shape[1]).index_add_(0, sample, factor).clamp(min=1)[sample]
    pairs, index = torch.unique(sample * layer.num_embeddings + x, return_inverse=True)
    share = g.new_zeros(len(pairs)).index_add_(0, index, factor).square()
    energy = g.square().sum(0)  # [B, d]
    out = g.new_zeros(layer.num_embeddings, layer.embedding_dim)
    out.index_add_(0, pairs % layer.num_embeddings, share[:, None] * energy[pairs // layer.num_embeddings])
    return {"weight": out}


def offsets_of(others: Sequence[Any]) -> Tensor | None:
    """Find the offsets among the arguments of an ``EmbeddingBag``: the first integer tensor after the ids."""
    return next((t for t in others if isinstance(t, Tensor) and not t.is_floating_point()), None)


_LAYERS: dict[type[nn.Module], Callable[..., Squares]] = {
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.Conv3d: _convolution,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.BatchNorm3d: _batch_norm,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _rms_norm,
    nn.Embedding: _embedding,
    nn.EmbeddingBag: _embedding_bag,
    nn.PReLU: _prelu,
    nn.ConvTranspose1d: _transposed_convolution,
    nn.ConvTranspose2d: _transposed_convolution,
    nn.ConvTranspose3d: _transposed_convolution,
}
