"""Quantize a selection to a target."""

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from nbquant.analysis.accuracy_loss import evaluations_of, fit_accuracy
from nbquant.analysis.curve import curve_of
from nbquant.analysis.target import Target, split_targets, target_of
from nbquant.progress import Progress
from nbquant.quantization import methods
from nbquant.quantization.block_quantizer import BLOCKS_METHOD
from nbquant.quantization.blocks import formats as block_formats
from nbquant.quantization.method import Method
from nbquant.quantization.quantize import quantize
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.quantizer import Quantizer
from nbquant.quantization.selection import Selection
from nbquant.registry import nearest
from nbquant.required import SELECTION, require
from nbquant.storage.write import file_ledger

EXACT_TRIES = 8
FAR, FAR_ON_CURVES = 1.25, 3.0
"""Factors between target and result beyond which a warning tells; points of curves may lie apart."""


def fit(
    selection: Selection,
    method: str | Sequence[str] | type[Any] | Quantizer = methods.DEFAULT.name,
    *,
    ratio: float | None = None,
    rate: float | None = None,
    levels: int | None = None,
    lmbda: float | None = None,
    step: float | None = None,
    accuracy_loss: float | None = None,
    evaluate: Any = None,
    file_of: nn.Module | str | os.PathLike[str] | None = None,
    progress: Progress = True,
    **options: Any,
) -> Quantized:
    """Quantize a selection to a target.

    The result is the point of least distortion on the method's curve that meets the target; it is computed from the
    weights themselves and meets the target too. With λ or a step it is that exact quantizer; ``levels`` is
    the largest number.

    Args:
        selection: From :func:`nbquant.select`.
        method: A method by name ("kmeans", "uniform", "ecsq", "trellis", "feedback") or class (``nq.Trellis``); or a
            quantizer (``nq.ECSQ(lmbda=1e-6)``), which includes its target and options. Trellis and feedback have no
            curve from histograms: they run on the weights, several times for a ratio or a rate, and do not support
            ``levels``. Feedback uses the layers of a selection with a calibration, see :func:`nbquant.calibrate`;
            without one it equals trellis. Or a block format of another library by name ("nf4", "q4_k", "int4/64"),
            which needs no target. Or several: each layer gets one of them, all layers at equal slopes; the result is
            the finest such choice that meets the target. Formats have blocks of 32 to 256 weights: leave biases out by
            ``nbquant.select(model, layers="*.weight")``. Without formats "blocks" chooses among the usual ones.
        ratio: Least compression ratio of the selected weights.
        rate: Largest rate [bit/weight], side information included.
        levels: Largest number of reconstruction values, of all codebooks together; ``nq.KMeans(levels=…,
            per_layer=True)`` counts those of each layer.
        lmbda: For ECSQ, trellis and feedback: Lagrange multiplier λ [loss/bit].
        step: For uniform: cell width [weight].
        accuracy_loss: Accuracy that may be lost [percentage points]: the result has the highest compression ratio that
            was found to lose no more, on all samples of ``evaluate``, and tells in ``accuracy`` what it lost and how
            sure it is that other samples lose no more. Tries that lose clearly more end after some samples.
        evaluate: How ``accuracy_loss`` is measured: ``(model, batches)`` or ``(model, batches, loss)``; or
            ``evaluate(quantized)``, which gives one evaluation, or one a batch, by ``nq.evaluate(…, reference=model)``.
        file_of: The module or checkpoint path that was selected from: ``ratio`` is then that of the whole file
            that :func:`nbquant.save` writes, with its header and all unquantized tensors.
        progress: True for progress bars, False for none, or a callable (done, total), which may raise to cancel.
        **options: Options of the method's class: ``weighted`` (by sensitivity), ``coding`` (code of the
            indices: "huffman", "fixed", "arithmetic", "context"), ``per_layer`` (a codebook for each layer),
            ``pinned_zero`` (k-means), ``layer_formats`` (formats of single layers by name, such as
            ``{"fc1": "q8_0"}``; the others are chosen), ``offset`` and ``steps`` (uniform, trellis), … None means the
            default of the class.

    Raises:
        Cancelled: By ``progress``.
        TypeError: Not a selection, or an unknown option (names the nearest).
        ValueError: Not exactly one target; a target out of reach (names the reachable range); the parameter of another
            method; an unknown method.
    """
    require("selection", selection, Selection, SELECTION)
    given = {"ratio": ratio, "rate": rate, "levels": levels, "lmbda": lmbda, "step": step, **options}
    if isinstance(method, list | tuple) or (isinstance(method, str) and block_formats.is_name(method)):
        if "formats" in options:
            raise ValueError("formats are the method here: leave the option out")
        options["formats"] = (method,) if isinstance(method, str) else tuple(method)
        given["formats"], method = options["formats"], BLOCKS_METHOD.name
        if not options["formats"]:
            raise ValueError("at least one block format is required, but the list is empty")
        others = (ratio, rate, levels, lmbda, step, accuracy_loss, file_of)
        if len(options["formats"]) == 1 and all(value is None for value in others):
            given["lmbda"] = 1.0  # there is nothing to choose
    known = _method_of(method)
    if known is None:
        assert not isinstance(method, str | type | Sequence)
        _require_nothing_else(
            method, {**given, "file_of": file_of, "accuracy_loss": accuracy_loss, "evaluate": evaluate}
        )
        return quantize(method, selection, progress=progress)
    if accuracy_loss is not None:
        return _fit_accuracy(selection, known, given, accuracy_loss, evaluate, file_of, progress)
    if evaluate is not None:
        raise ValueError("evaluate measures accuracy_loss, but that was not given: give both, or leave evaluate out")
    targets, options = split_targets(known, given)
    family = methods.family(known.name, **options)  # rejects unknown names before a target is missed
    target = target_of(**targets)
    if file_of is not None and target.name != "ratio":
        raise ValueError(f"file_of requires the target ratio, but got {target.name}: leave one of them out.")
    family(1)  # reject invalid option values before computing anything
    curve = curve_of(family, selection, progress=progress)
    if file_of is None:
        found = curve.fit(target)
        reached = target.value if target.name not in ("ratio", "rate") else target.quantity(found)
    else:
        found, reached = _fit_file(selection, target, curve.fit, file_of)
    if known.corners is None:  # of few results most are far
        _warn_if_far(found, target, reached, FAR if known.curve is None else FAR_ON_CURVES)
    return found


def _warn_if_far(found: Quantized, target: Target, reached: float, far: float) -> None:
    """Warn of a result far coarser than was asked for."""
    if max(reached / target.value, target.value / max(reached, 1e-300)) > far:
        method = found.quantizer.method
        warnings.warn(
            f"{target.name} {target.value:g} was asked for, but the finest {method} found within it has {target.name} "
            f"{reached:.4g}: the next finer result misses the target, or more bits would change nothing; compare with "
            "another method",
            stacklevel=3,
        )


def _fit_accuracy(
    selection: Selection,
    method: Method,
    given: dict[str, Any],
    at_most: float,
    evaluate: Any,
    file_of: Any,
    progress: Progress,
) -> Quantized:
    """Fit to an accuracy that may be lost, with options and no other target."""
    targets, options = split_targets(method, {**given, "file_of": file_of})
    others = [name for name, value in {**targets, "file_of": options.pop("file_of")}.items() if value is not None]
    if others:
        raise ValueError(f"accuracy_loss is a target of its own, but {', '.join(others)} came too: leave one out")
    Target("accuracy_loss", at_most)  # rejects what is no number above zero
    if evaluate is None:
        raise ValueError("accuracy_loss requires evaluate=(model, batches), but evaluate is missing: give both")
    family = methods.family(method.name, **options)
    family(1)
    curve = curve_of(family, selection, progress=False)
    return fit_accuracy(at_most, curve.fit, evaluations_of(evaluate), progress)


def _method_of(method: object) -> Method | None:
    """The method of a name or class; None for a quantizer."""
    if isinstance(method, str):
        if method not in methods.names():
            known = (*methods.names(), *block_formats.names())
            raise ValueError(
                f"method must be one of {', '.join(methods.names())}, or a block format such as nf4 or q4_k, but got "
                f"{method!r}{nearest(method.partition('/')[0], known)}"
            )
        return methods.named(method)
    if isinstance(method, type):
        found = [known for known in methods.METHODS if known.make is method]
        if found:
            return found[0]
    elif any(isinstance(method, known.make) for known in methods.METHODS):
        return None
    classes = ", ".join(known.make.__name__ for known in methods.METHODS)
    came = f"the class {method.__name__}" if isinstance(method, type) else f"{method!r}"[:200]
    raise TypeError(
        f"method must be a name, a list of block formats, one of the classes {classes}, or a quantizer of one, but got "
        f"{came}"
    )


def _require_nothing_else(quantizer: Quantizer, others: dict[str, Any]) -> None:
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise ValueError(
            f"a quantizer includes its target and options, but got {', '.join(given)} as well: leave that out, "
            f"or pass its class or {quantizer.method!r} instead"
        )


def _fit_file(
    selection: Selection,
    target: Target,
    to_target: Callable[[Target], Quantized],
    file_of: nn.Module | str | os.PathLike[str],
) -> tuple[Quantized, float]:
    """Fit to a ratio of the whole file, and return the one reached: its unquantized part hardly depends on the fit."""
    allowed = (selection.source_bits + selection.unselected_bits) / target.value
    aim = target
    for _ in range(EXACT_TRIES):
        try:
            quantized = to_target(aim)
        except ValueError as error:
            if aim is target:
                raise
            raise ValueError(f"for ratio {target.value:g} of the file the selection needs more: {error}") from None
        beside = file_ledger(quantized, file_of).total - quantized.ledger.total
        if quantized.ledger.total + beside <= allowed:
            return quantized, target.value * allowed / (quantized.ledger.total + beside)
        left = allowed - beside
        if left <= 0:
            raise ValueError(
                f"ratio {target.value:g} requires a file of {allowed / 8:,.0f} bytes, but header and unquantized "
                f"tensors alone take {beside / 8:,.0f}: ask for less than "
                f"{target.value * allowed / beside:.3g}, or select more layers."
            )
        aim = Target("ratio", max(selection.source_bits / left, aim.stricter(1e-4).value))
    raise ValueError(f"no file of ratio {target.value:g} was found in {EXACT_TRIES} tries: ask for a little less.")
