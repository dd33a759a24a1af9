#!/bin/bash
# torch 2.13.0, CPU: torch.utils.flop_counter.FlopCounterMode and recurrent layers.
#
# A good guess: the counter finds the matrix products of nn.LSTM as it finds those of nn.GRU, four gates against three:
# a third more for the same sizes. If it missed one, it would miss both.
#
# What happens: nn.GRU is taken apart into products and counted in full; nn.LSTM runs as one fused operation that the
# counter has no formula for, and counts 0, without a warning. A model's total then looks as if it had no recurrence.
#
# What nbquant does: nbquant.sensitivity.groups adds the operations of LSTMs by a hook.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

print("torch", torch.__version__)
words, batch, width = 10, 4, 32
found = {}
for layer, gates in ((nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)):
    with FlopCounterMode(display=False) as counter:
        layer(width, width)(torch.ones(words, batch, width))
    expected = 2 * words * batch * gates * 2 * width * width  # input and state, each width × width a gate
    found[layer.__name__] = counter.get_total_flops() / expected
    print(f"{layer.__name__}: {counter.get_total_flops():,} counted, {expected:,} by hand")
assert found == {"RNN": 1.0, "GRU": 1.0, "LSTM": 0.0}, found
PYTHON
# Seen:
# torch 2.13.0+cpu
# RNN: 163,840 counted, 163,840 by hand
# GRU: 491,520 counted, 491,520 by hand
# LSTM: 0 counted, 655,360 by hand
