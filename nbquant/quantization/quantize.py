"""Quantization of a selection or a plain tensor by any quantizer."""

from jaxtyping import Float
from torch import Tensor

from nbquant.progress import Progress
from nbquant.quantization import methods
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.quantizer import Quantizer, Weights
from nbquant.quantization.selection import as_selection


def quantize(
    quantizer: Quantizer, weight: Weights, sensitivity: Float[Tensor, "..."] | None = None, progress: Progress = False
) -> Quantized:
    """Quantize a selection, or a plain tensor with its sensitivity (without one, h = 1).

    Args:
        quantizer: A quantizer of any of :data:`nbquant.quantization.methods.METHODS`.
        weight: A selection; or weights of any shape, floating point and finite.
        sensitivity: Hessian diagonal [loss/weight²] of the same shape, for a plain tensor only.
        progress: See :data:`nbquant.progress.Progress`.

    Raises:
        TypeError: Neither a selection nor a floating-point tensor.
        ValueError: No weights; NaN or infinite entries; a sensitivity of another shape, negative or all zero.
        nbquant.progress.Cancelled: By ``progress``.
    """
    return methods.of(quantizer).quantize(quantizer, as_selection(weight, sensitivity), progress)
