#!/bin/bash
# torch 2.13.0: torch.func.functional_call and a module that its parent holds under two names.
#
# A good guess: functional_call puts the given tensor in the place of the parameter for one call and puts the parameter
# back afterwards, as its documentation says. So the module has the same Parameter objects before and after.
#
# What happens: with a module registered under two names (self.b = self.a, with the default tie_weights=True), the
# value given for "a.weight" is swapped in twice and out once too few. After the call the module holds the plain tensor
# instead of its Parameter: the trained weight and its .grad are gone, for both names, and no error is raised.
#
# What nbquant does: it calls functional_call on single layers only, which have no second name (nbquant.sensitivity.becker_lecun).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch import nn


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(2, 2)
        self.b = self.a

    def forward(self, x):
        return self.b(self.a(x))


def call(model):
    model(torch.ones(1, 2)).sum().backward()
    weight = model.a.weight
    torch.func.functional_call(model, {"a.weight": torch.zeros(2, 2)}, (torch.ones(1, 2),))
    return model.a.weight is weight, type(model.a.weight).__name__, model.a.weight.grad is not None


alone = nn.Sequential()
alone.a = nn.Linear(2, 2)
print("torch", torch.__version__)
found = {"one name": call(alone), "two names": call(Twice())}
for name, (same, kind, grad) in found.items():
    print(f"{name}: same object {same}, a {kind}, has its gradient {grad}")
assert found == {"one name": (True, "Parameter", True), "two names": (False, "Tensor", False)}, found
PYTHON
# Seen:
# torch 2.13.0+cpu
# one name: same object True, a Parameter, has its gradient True
# two names: same object False, a Tensor, has its gradient False
