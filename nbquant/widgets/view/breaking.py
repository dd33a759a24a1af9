"""Put what breaks by quantization into plain values for the front end: pictures, texts, filters."""

from typing import Any

import numpy as np
from torch import Tensor

from nbquant.models.flips import Flip
from nbquant.widgets.front.figure_panel import binary
from nbquant.widgets.jobs.breaks import Breaks

LEAST_SIDE, MOST_SIDE = 4, 256  # pixels of an image
MOST_TOKENS = 12  # of a text that are shown, around the label


def breaking(found: Breaks | None) -> dict[str, Any]:
    """Describe what breaks: "summary", "flips" with a picture or a text each, "filters"; empty without."""
    if found is None:
        return {}
    flips, count = found.flips, found.flips.count
    first = "the first " * found.partial
    return {
        "summary": f"Of {first}{flips.labels:,} answers {count['broken']:,} broke, {count['mended']:,} were mended, "
        f"{count['other']:,} are wrong in another way.",
        "flips": [_flip(flip) for flip in flips.examples],
        "filters": _filters(found),
    }


def _flip(flip: Flip) -> dict[str, Any]:
    where = f"sample {flip.sample}" + f", label {flip.position}" * bool(flip.position)
    picture = None if flip.input is None else picture_of(flip.input)
    return {
        "kind": flip.kind,
        "where": where,
        "target": flip.target,
        "before": flip.before,
        "after": flip.after,
        "confidence": flip.confidence,
        "picture": picture,
        "text": "" if picture is not None or flip.input is None else _text(flip.input, flip.position),
    }


def picture_of(tensor: Tensor) -> dict[str, Any] | None:
    """Convert an image of one or three channels to RGB bytes, its least value black and its greatest white."""
    image = tensor[None] if tensor.ndim == 2 else tensor
    if image.ndim != 3 or image.shape[0] not in (1, 3) or not image.is_floating_point():
        return None
    if not all(LEAST_SIDE <= side <= MOST_SIDE for side in image.shape[1:]):
        return None
    values = image.double().numpy()
    low, high = float(values.min()), float(values.max())
    grey = np.round(255 * (values - low) / (high - low or 1.0)).astype(np.uint8)
    rgb = np.broadcast_to(grey.transpose(1, 2, 0), (*grey.shape[1:], 3))
    pixels: dict[str, Any] = binary(np.ascontiguousarray(rgb).reshape(-1))
    return {"width": int(image.shape[2]), "height": int(image.shape[1]), "rgb": pixels}


def _text(tensor: Tensor, position: int) -> str:
    """Numbers of an input that is no image, around a label."""
    flat = tensor.reshape(-1)
    begin = max(0, min(position - MOST_TOKENS // 2, len(flat) - MOST_TOKENS))
    shown = flat[begin : begin + MOST_TOKENS].tolist()
    numbers = " ".join(f"{v}" if isinstance(v, int) else f"{v:.2g}" for v in shown)
    return "… " * (begin > 0) + numbers + " …" * (begin + MOST_TOKENS < len(flat))


def _filters(found: Breaks) -> dict[str, Any] | None:
    filters = found.filters
    if filters is None:
        return None
    most = float(filters.before.abs().max().clamp(min=filters.after.abs().max())) or 1.0
    _, height, width = filters.before.shape
    both = {name: binary((getattr(filters, name) / most).reshape(-1).numpy()) for name in ("before", "after")}
    return {"name": filters.name, "height": height, "width": width, **both}
