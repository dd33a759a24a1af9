"""Decomposition of the loss change caused by quantization into Taylor terms, over rates and methods."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor, nn

from nbquant.analysis.prediction import predict_loss
from nbquant.losses import Loss
from nbquant.progress import Progress, track
from nbquant.quantization.quantized import Quantized

OFF = 2.0
"""Factor between prediction and measurement beyond which the second-order model counts as broken."""


def decompose(
    model: nn.Module,
    quantized: Mapping[str, Quantized] | Sequence[Quantized],
    batches: Iterable[Any],
    sensitivity: Mapping[str, Tensor] | None,
    loss: Loss | None = None,
    progress: Progress = True,
) -> pd.DataFrame:
    """Predict the change of the loss by each second-order approximation, and measure it, all on the same samples.

    Where ``quadratic`` is far above ``diagonal``, the off-diagonal terms do not cancel as Choi et al. assumed; where it
    is far from ``gauss_newton``, the curvature of the network itself matters; where ``second_order`` is far from
    ``measured``, third-order terms do.

    Args:
        model: The model selected from.
        quantized: Quantized selections by label; unlabelled ones are labelled by method and ratio.
        batches: Pairs (inputs, target), as for :func:`nbquant.sensitivity`.
        sensitivity: Parameter name -> h [loss/weight²]; None for h = 1.
        loss: Loss of a batch from (output, target), the mean over its samples; cross-entropy if None.
        progress: See :data:`nbquant.progress.Progress`; counts quantizations.

    Returns:
        One row per quantization: ``label``, ``method``, ``weighted``, ``rate`` [bit/weight], ``compression_ratio``;
        ``gradient``
        gᵀδ, ``diagonal`` ½Σhδ², ``quadratic`` ½δᵀHδ, ``gauss_newton`` ½δᵀGδ, ``second_order`` gᵀδ + ½δᵀHδ and
        ``measured``, all [loss]; ``samples``; and ``breaks``: whether ``second_order`` is off by more than twofold, or
        of the other sign.

    Raises:
        ValueError: Nothing quantized; or as :func:`nbquant.analysis.prediction.predict_loss`.
        Cancelled: By ``progress``.
    """
    named = dict(quantized) if isinstance(quantized, Mapping) else {_label(q, i): q for i, q in enumerate(quantized)}
    if not named:
        raise ValueError("at least one quantized selection is required, but got none: pass the result of nbquant.fit")
    samples = list(batches) if isinstance(batches, Iterator) else batches  # gone through once for each
    rows = []
    for label, one in track(list(named.items()), "decomposition", progress):
        found = predict_loss(model, one, samples, sensitivity, loss, gauss_newton=True, progress=False)
        rows.append(
            {
                "label": label,
                "method": one.quantizer.method,
                "weighted": one.quantizer.weighted,
                "rate": one.rate,
                "compression_ratio": one.compression_ratio,
                "gradient": found.gradient,
                "diagonal": found.diagonal,
                "quadratic": found.quadratic,
                "gauss_newton": found.gauss_newton,
                "second_order": found.second_order,
                "measured": found.measured,
                "samples": found.samples,
                "breaks": bool(is_off(np.array([found.second_order]), np.array([found.measured]))[0]),
            }
        )
    return pd.DataFrame(rows)


def is_off(predicted: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Whether predictions are off by more than :data:`OFF`, or have the other sign; NaN is."""
    agree = np.sign(predicted) == np.sign(measured)
    larger, smaller = np.maximum(abs(predicted), abs(measured)), np.minimum(abs(predicted), abs(measured))
    return ~(agree & (larger <= OFF * smaller))


def _label(quantized: Quantized, number: int) -> str:
    return f"{number + 1}: {quantized.quantizer}, {quantized.compression_ratio:.3g}×"
