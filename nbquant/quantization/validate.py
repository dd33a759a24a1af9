"""Validation of weights and sensitivities, from models or plain tensors."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

QUANTIZABLE = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

_CHUNK = 1 << 20  # entries checked at a time, so that checks take little memory


def checked_weight(weight: object, name: str) -> Float[Tensor, "..."]:
    """Check a plain tensor of weights, and detach it.

    Raises:
        TypeError: Not a tensor, or of a dtype that cannot be quantized.
        ValueError: No entries, or some that are not finite.
    """
    if not isinstance(weight, Tensor) or weight.dtype not in QUANTIZABLE:
        raise TypeError(f"{name} must be a tensor in {dtype_names()}, but is {_came(weight)}: convert it first.")
    if weight.numel() == 0:
        raise ValueError(f"{name} must have at least one entry, but has the shape {tuple(weight.shape)}.")
    require_finite_weight(weight, name)
    return weight.detach()


def require_finite_weight(weight: Float[Tensor, "..."], name: str) -> None:
    """Refuse weights that are not finite, counted in one pass and little memory.

    Raises:
        ValueError: NaN or infinite entries.
    """
    _require_finite(weight, "weights", name, "repair the model before quantizing it")


def require_valid_sensitivity(sensitivity: Float[Tensor, "..."], name: str) -> None:
    """Refuse sensitivities that are not finite or negative, counted in one pass and little memory.

    Raises:
        ValueError: NaN, infinite or negative entries.
    """
    _require_finite(sensitivity, "sensitivities", name, "use fewer or other batches, or another method")
    least = _least(sensitivity)
    if least < 0:
        negative = sum(int((part < 0).sum()) for part in _chunks(sensitivity))
        raise ValueError(
            f"sensitivity must be non-negative, but {negative} of {sensitivity.numel()} entries of {name!r} are "
            f"not (min {least:.2g}): clamp it with .clamp(min=0), or use a method that is never "
            'negative, such as "gauss_newton".'
        )


def checked_sensitivity(sensitivity: object, weight: Float[Tensor, "..."], name: str) -> Float[Tensor, "..."]:
    """Check the sensitivity of a tensor; returns it detached, on the weight's device.

    Entries may all be zero: that is checked for the whole selection, see :func:`require_positive_somewhere`.

    Raises:
        TypeError: Not a floating-point tensor.
        ValueError: Another shape than the weight's, or entries that are not finite or negative.
    """
    sensitivity = fitting_sensitivity(sensitivity, weight, name)
    require_valid_sensitivity(sensitivity, name)
    return sensitivity


def fitting_sensitivity(sensitivity: object, weight: Float[Tensor, "..."], name: str) -> Float[Tensor, "..."]:
    """Check type and shape of a sensitivity without reading its entries; returns it detached, on the weight's device.

    Raises:
        TypeError: Not a floating-point tensor.
        ValueError: Another shape than the weight's.
    """
    if not isinstance(sensitivity, Tensor) or not sensitivity.is_floating_point():
        raise TypeError(f"sensitivity of {name!r} must be a floating-point tensor, but is {_came(sensitivity)}.")
    if sensitivity.shape != weight.shape:
        raise ValueError(
            f"sensitivity of {name!r} must have the weight's shape {tuple(weight.shape)}, but has "
            f"{tuple(sensitivity.shape)}: compute it for the same model."
        )
    return sensitivity.detach().to(weight.device)


def require_positive_somewhere(sensitivities: Sequence[Float[Tensor, "..."]]) -> None:
    """Refuse sensitivities that are zero in all tensors of a selection.

    Raises:
        ValueError: All entries are zero.
    """
    if not any(bool(part.any()) for s in sensitivities for part in _chunks(s)):
        raise all_zero(sum(s.numel() for s in sensitivities))


def all_zero(count: int) -> ValueError:
    """Format the error for sensitivities that are all zero."""
    return ValueError(
        f"sensitivity must be positive somewhere, but all {count} entries are zero: use more or other calibration "
        "batches, or sensitivity=None to weight all weights equally."
    )


def dtype_name(tensor: Tensor) -> str:
    """Name a dtype without "torch."."""
    return str(tensor.dtype).removeprefix("torch.")


def dtype_names() -> str:
    """List the dtypes that can be quantized."""
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in QUANTIZABLE)


def _came(value: object) -> str:
    return f"a {value.dtype} tensor" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _require_finite(values: Tensor, kind: str, name: str, advice: str) -> None:
    # A minimum is NaN if an entry is, and needs no mask; -inf and inf are at the two ends.
    if all(bool(torch.stack(part.aminmax()).isfinite().all()) for part in _chunks(values)):
        return
    nans = sum(int(part.isnan().sum()) for part in _chunks(values))
    infinite = sum(int(part.isinf().sum()) for part in _chunks(values))
    raise ValueError(
        f"{kind} must be finite, but {nans + infinite} of {values.numel()} in {name!r} are not ({nans} NaN, "
        f"{infinite} infinite): {advice}, or leave this layer out."
    )


def _least(values: Tensor) -> float:
    return min((float(part.min()) for part in _chunks(values)), default=0.0)


def _chunks(values: Tensor) -> Iterator[Tensor]:
    """All entries, in memory order where flattening by rows would copy them."""
    by_stride = sorted(range(values.dim()), key=values.stride, reverse=True)
    return (part for part in values.detach().permute(by_stride).reshape(-1).split(_CHUNK) if part.numel())
