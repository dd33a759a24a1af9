"""Self-attention rewritten with separate projection layers, so that hooks see them."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def input_projection(attention: nn.MultiheadAttention) -> nn.Linear | None:
    """Make a linear layer of the packed input projection, sharing the attention's parameters.

    Returns:
        The layer; None for an attention that computes differently from :func:`separated`.
    """
    plain = (
        attention.in_proj_weight is not None
        and attention.bias_k is None
        and attention.bias_v is None
        and not attention.add_zero_attn
        and type(attention).forward is nn.MultiheadAttention.forward
        and isinstance(attention._parameters.get("in_proj_weight"), nn.Parameter)
    )
    if not plain:
        return None
    layer = nn.Linear.__new__(nn.Linear)
    nn.Module.__init__(layer)
    layer.in_features, layer.out_features = attention.embed_dim, 3 * attention.embed_dim
    layer.register_parameter("weight", attention.in_proj_weight)
    layer.register_parameter("bias", attention.in_proj_bias)
    return layer.train(attention.training)


@contextmanager
def separated(attention: nn.MultiheadAttention, projection: nn.Linear) -> Iterator[None]:
    """Let an attention call its projections as layers, if query, key and value are the same tensor."""
    own = vars(attention).get("forward")
    attention.forward = partial(_attend, attention, projection)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del attention.forward
        if own is not None:
            attention.forward = own  # type: ignore[method-assign]


def _attend(
    self: nn.MultiheadAttention,
    projection: nn.Linear,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Any, Any]:
    if not (query is key and key is value) or query.ndim != 3 or query.is_nested:
        return nn.MultiheadAttention.forward(
            self, query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
        )
    x = query if self.batch_first else query.transpose(0, 1)
    batch, words, _ = x.shape
    parts = projection(x).reshape(batch, words, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
    q, k, v = parts.unbind(0)  # [batch, heads, words, head_dim]
    mask = _mask(self, x, attn_mask, key_padding_mask)
    weights = None
    if need_weights:
        scores = q @ k.transpose(-2, -1) / math.sqrt(self.head_dim)
        weights = (scores if mask is None else scores + mask).softmax(-1)
        out = weights @ v
        weights = weights.mean(1) if average_attn_weights else weights
    else:
        out = functional.scaled_dot_product_attention(q, k, v, mask)
    found = self.out_proj(out.transpose(1, 2).reshape(batch, words, self.embed_dim))
    return found if self.batch_first else found.transpose(0, 1), weights


def _mask(self: nn.MultiheadAttention, x: Tensor, attn_mask: Tensor | None, padding: Tensor | None) -> Tensor | None:
    """Mask added to the scores: −∞ at masked positions."""

    def added(mask: Tensor) -> Tensor:
        if mask.dtype != torch.bool:
            return mask.to(x.dtype)
        return torch.zeros(mask.shape, dtype=x.dtype, device=x.device).masked_fill_(mask, -math.inf)

    total = None
    if attn_mask is not None:
        total = added(attn_mask)
        total = total[None, None] if total.ndim == 2 else total.unflatten(0, (len(x), self.num_heads))
    if padding is not None:
        own = added(padding)[:, None, None, :]
        total = own if total is None else total + own
    return total
