#!/bin/bash
# optimum-quanto 0.2.7: the state dict of a frozen linear layer with weights of 4 bits in groups.
#
# A good guess: shapes of codes, scales and shifts tell the shape of the weight, as they do for other libraries' files.
#
# What happens: codes are stored group by group, two groups to a byte, and nothing tells how many groups are in a row. Layers
# of 8 outputs by 256 inputs and of 16 outputs by 128 inputs have state dicts of the same names, types and shapes.
#
# What nbquant does: nbquant.formats.quanto takes the number of rows from the bias, and without one each group is a row.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 optimum-quanto==0.2.7
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from optimum.quanto import freeze, qint4, quantize

seen = []
for outputs, inputs in ((8, 256), (16, 128)):
    network = torch.nn.Sequential(torch.nn.Linear(inputs, outputs, bias=False))
    quantize(network, weights=qint4)
    freeze(network)
    state = network.state_dict()
    seen.append({name: (str(t.dtype), tuple(t.shape)) for name, t in state.items() if isinstance(t, torch.Tensor)})
    print(f"{outputs} × {inputs}:", {name: shape for name, (_, shape) in seen[-1].items()})
assert seen[0] == seen[1], "the state dicts differ now"
assert any("_data" in name for name in seen[0])
PYTHON
# Seen:
# 8 × 256: {'0.weight._data._data': (8, 128), '0.weight._scale': (16, 1), '0.weight._shift': (16, 1), '0.input_scale': (), '0.output_scale': ()}
# 16 × 128: {'0.weight._data._data': (8, 128), '0.weight._scale': (16, 1), '0.weight._shift': (16, 1), '0.input_scale': (), '0.output_scale': ()}
