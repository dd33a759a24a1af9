"""Step sizes of layers: one joint step, or one per layer at equal slope dD/dR."""

import math
from typing import Literal

import torch

from nbquant.quantization.selection import Selection
from nbquant.quantization.tensor import SelectedTensor

Steps = Literal["joint", "equal slope"]
STEPS: tuple[Steps, ...] = ("joint", "equal slope")


def check_steps(steps: str, per_layer: bool) -> None:
    """Reject an unknown kind of steps, or steps per layer with a joint codebook."""
    if steps not in STEPS:
        raise ValueError(f"steps must be one of {', '.join(map(repr, STEPS))}, but got {steps!r}")
    if steps != "joint" and not per_layer:
        raise ValueError(f'steps={steps!r} needs a codebook for each layer: pass per_layer=True, or steps="joint"')


def mean_sensitivity(selection: Selection) -> float:
    """Compute the mean sensitivity h̄ [loss/weight²]; 1 without sensitivities."""
    return sum(_mass(t) for t in selection) / len(selection)


def _mass(tensor: SelectedTensor) -> float:
    h = tensor.sensitivity
    return float(tensor.weight.numel() if h is None else h.sum(dtype=torch.float64))


def step_of_layers(selection: Selection, step: float, steps: Steps) -> dict[str, float]:
    """Compute the step of each layer: the same, or ∝ h̄^(−½), for equal slope dD/dR at high rate.

    Args:
        selection: The layers.
        step: Step for a layer with the selection's mean sensitivity.
        steps: "joint" or "equal slope".

    Source: Gersho 1979 (D ≈ hΔ²/24 at high rate); Choi et al. 2017 (arXiv:1612.01543), section 5.1.
    """
    if steps == "joint":
        return dict.fromkeys(selection.layers, step)
    h = {layer: mean_sensitivity(members) for layer, members in selection.by_layer().items()}
    whole = mean_sensitivity(selection)
    # A layer with zero sensitivity has the step of the whole.
    return {layer: step * math.sqrt(whole / mean) if mean > 0 else step for layer, mean in h.items()}
