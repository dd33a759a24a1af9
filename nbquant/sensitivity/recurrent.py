"""Recurrent layers unrolled into steps, so that the uses of their weights are seen."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

LAYERS: tuple[type[nn.RNNBase], ...] = (nn.LSTM, nn.GRU, nn.RNN)
CELLS: tuple[type[nn.RNNCellBase], ...] = (nn.LSTMCell, nn.GRUCell, nn.RNNCell)

State = tuple[Tensor, ...]
"""State h of a step; for an LSTM h and c."""


@contextmanager
def unrolled(model: nn.Module) -> Iterator[None]:
    """Replace the fused recurrences of a network by the calls of ``functional.linear`` that define them.

    A layer whose ``forward`` is not torch's own, or whose weights are not parameters, is unchanged. So is a call
    with a packed sequence. Every layer gets its own ``forward`` back in any case.

    Source: Hochreiter and Schmidhuber 1997 (LSTM), Cho et al. 2014 (GRU, with the reset after the product), Sak et al.
    2014 for projections; the equations are those of torch's documentation.
    """
    changed: list[nn.Module] = []
    try:
        for module in model.modules():
            unroll = _unrolled_forward(module)
            if unroll is not None:
                module.forward = partial(unroll, module)
                changed.append(module)
        yield
    finally:
        for module in changed:
            del module.forward


def _unrolled_forward(module: nn.Module) -> Any:
    """The replacement for a module's forward; None if it differs from torch's recurrent layers."""
    if "forward" in vars(module):
        return None
    for kinds, unroll in ((LAYERS, _run_layers), (CELLS, _run_cell)):
        for kind in kinds:
            if isinstance(module, kind) and type(module).forward is kind.forward:
                # Without a bias, cells register None under its name.
                names = getattr(module, "_all_weights", [["weight_ih", "weight_hh"]])
                plain = all(isinstance(module._parameters.get(n), nn.Parameter) for of in names for n in of)
                return unroll if plain else None
    return None


def _run_layers(self: nn.RNNBase, input: Any, hx: Any = None) -> tuple[Tensor, Any]:
    if not isinstance(input, Tensor) or input.is_nested or input.ndim not in (2, 3) or not input.numel():
        return type(self).forward(self, input, hx)
    batched, is_lstm = input.ndim == 3, self.mode == "LSTM"
    x = input if batched else input.unsqueeze(0 if self.batch_first else 1)
    states = None if hx is None else tuple(hx) if is_lstm else (hx,)
    if states is not None:
        states = states if batched else tuple(state.unsqueeze(1) for state in states)
        self.check_forward_args(x, states if is_lstm else states[0], None)  # type: ignore[arg-type]
    x = x.transpose(0, 1) if self.batch_first else x
    directions = 2 if self.bidirectional else 1
    if states is None:
        widths = (self.proj_size or self.hidden_size, self.hidden_size)[: 1 + is_lstm]
        states = tuple(x.new_zeros(self.num_layers * directions, x.shape[1], width) for width in widths)
    last: list[State] = []
    for layer in range(self.num_layers):
        if layer:
            x = functional.dropout(x, self.dropout, self.training)
        found = []
        for direction in range(directions):
            at = layer * directions + direction
            weights = {name[: name.index("_l")]: self._parameters[name] for name in self._all_weights[at]}
            steps, state = _run_steps(
                self.mode, x.flip(0) if direction else x, tuple(part[at] for part in states), weights
            )
            found.append(steps.flip(0) if direction else steps)
            last.append(state)
        x = torch.cat(found, -1)
    x = x.transpose(0, 1) if self.batch_first else x
    ends = tuple(torch.stack(parts) for parts in zip(*last, strict=True))
    if not batched:
        x, ends = x.squeeze(0 if self.batch_first else 1), tuple(end.squeeze(1) for end in ends)
    return x, ends if is_lstm else ends[0]


def _run_cell(self: nn.RNNCellBase, input: Tensor, hx: Any = None) -> Any:
    if input.ndim not in (1, 2) or not input.numel():
        return type(self).forward(self, input, hx)
    mode = {nn.LSTMCell: "LSTM", nn.GRUCell: "GRU"}.get(
        next(kind for kind in CELLS if isinstance(self, kind)), f"RNN_{getattr(self, 'nonlinearity', '')}".upper()
    )
    is_lstm, batched = mode == "LSTM", input.ndim == 2
    x = input if batched else input[None]
    if hx is None:
        states = (x.new_zeros(len(x), self.hidden_size),) * (1 + is_lstm)
    else:
        states = tuple(s if batched else s[None] for s in (hx if is_lstm else (hx,)))
    weights = {name: p for name, p in self._parameters.items() if p is not None}
    _, state = _run_steps(mode, x[None], states, weights)
    state = state if batched else tuple(s[0] for s in state)
    return state if is_lstm else state[0]


def _run_steps(mode: str, x: Tensor, state: State, weights: Any) -> tuple[Tensor, State]:
    """Run one direction of a layer on [time, batch, width]: h of all steps, and the last state."""
    of_input = functional.linear(x, weights["weight_ih"], weights.get("bias_ih"))
    found = []
    for now in of_input:
        of_state = functional.linear(state[0], weights["weight_hh"], weights.get("bias_hh"))
        state = _step(mode, now, of_state, state)
        if "weight_hr" in weights:
            state = functional.linear(state[0], weights["weight_hr"]), *state[1:]
        found.append(state[0])
    return torch.stack(found), state


def _step(mode: str, of_input: Tensor, of_state: Tensor, state: Sequence[Tensor]) -> State:
    if mode == "LSTM":
        i, f, g, o = (of_input + of_state).chunk(4, -1)
        c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c
    if mode == "GRU":
        r, z, n = of_input.chunk(3, -1)
        of_r, of_z, of_n = of_state.chunk(3, -1)
        z = (z + of_z).sigmoid()
        return ((1 - z) * (n + (r + of_r).sigmoid() * of_n).tanh() + z * state[0],)
    total = of_input + of_state
    return (total.relu() if mode == "RNN_RELU" else total.tanh(),)
