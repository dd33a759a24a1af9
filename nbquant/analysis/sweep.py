"""Sweeps: many quantizations (models × methods × ratios), one row per run, on one or several machines."""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from nbquant.analysis.executors import Executor, completed
from nbquant.analysis.fit import fit
from nbquant.analysis.rows import Row, RowFile
from nbquant.analysis.target import OutOfReachError
from nbquant.models.evaluate import Evaluation
from nbquant.models.select import select
from nbquant.progress import Progress, track
from nbquant.quantization import methods
from nbquant.quantization.selection import Selection
from nbquant.required import require

Model = nn.Module | str | os.PathLike[str] | Selection | tuple[nn.Module, Selection]
Found = Evaluation | Mapping[str, float] | float
PIECE = 1 << 22  # entries hashed at a time

NUMBERS = ("compression_ratio", "rate", "levels", "distortion", "predicted_loss_increase")
COLUMNS = (*NUMBERS, "seconds", "error")


@dataclass(frozen=True)
class Subject:
    """Subject of a run: a model and its selection."""

    selection: Selection
    model: nn.Module | None
    evaluate: Callable[[nn.Module], Found] | None


def sweep(
    models: Mapping[str, Model],
    methods: Sequence[str | Mapping[str, Any]],
    ratios: Sequence[float],
    *,
    evaluate: Callable[[nn.Module], Found] | None = None,
    executor: Executor = None,
    path: str | os.PathLike[str] | None = None,
    progress: Progress = True,
) -> pd.DataFrame:
    """Quantize each of several models by each method at each compression ratio.

    With a ``path`` every row is written to disk as soon as it is found and never computed again: a sweep that was
    cancelled or killed resumes when it is called again. The key of a row is the values of the weights, the
    sensitivities and the calibration, the method with its options, and the ratio; ``evaluate`` is not part of it, so
    use another path for another ``evaluate``.

    Args:
        models: Models by name: a module or the path of a checkpoint, whose layers are all selected
            without sensitivities; a result of :func:`nbquant.select`; or a module with its selection.
        methods: For each method its name, or the arguments of :func:`nbquant.fit`, such as
            ``{"method": "ecsq", "coding": "arithmetic"}``.
        ratios: Compression ratios of the selected weights.
        evaluate: ``evaluate(model)`` on a quantized copy of the module, such as ``lambda m: nbquant.evaluate(m,
            batches)``, with ``reference=model`` for the divergence from the original's predictions. It returns an
            ``Evaluation``, numbers by name, or one number for the column "score". Needs modules.
        executor: None runs here, one after the other; a number uses that many local processes (models and
            ``evaluate`` must be picklable, and a script must call this under ``if __name__ == "__main__"``); a
            ``dask.distributed.Client`` uses its workers. Models are sent once to a worker. A run whose worker is killed
            is repeated.
        path: File of rows, created if it does not exist. One sweep at a time writes it.
        progress: See :data:`nbquant.progress.Progress`; counts rows. On cancellation, workers of a Dask cluster finish
            the runs they have begun; all others stop at once.

    Returns:
        One row per run, in the order of models, methods and ratios: "model", "method", the options of any method,
        "ratio", then "compression_ratio", "rate" [bit/weight], "levels", "distortion" [loss/weight],
        "predicted_loss_increase" [loss], "seconds", "error" (why a ratio is out of reach; the others are NaN then), and
        the results of ``evaluate``.

    Raises:
        ValueError: Nothing to run, a ratio that is not above 0, an option unknown to :func:`nbquant.fit`, a
            path with other content, ``evaluate`` without a module.
        TypeError: A model or an executor of another type, or a model that cannot be sent to other processes.
        Cancelled: By ``progress``; rows in the file stay.
    """
    require("models", models, Mapping, "must map names to models", 'pass {"name": model}')
    options = [_options(method) for method in ([methods] if isinstance(methods, str | Mapping) else methods)]
    wanted = [_ratio(ratio) for ratio in ([ratios] if isinstance(ratios, int | float) else ratios)]
    if not (models and options and wanted):
        raise ValueError("at least one model, one method and one ratio are required.")
    subjects = {name: _subject(name, model, evaluate) for name, model in models.items()}
    content = {name: _digest(subject.selection) for name, subject in subjects.items()} if path is not None else {}
    runs = [(name, {**chosen, "ratio": ratio}) for name in subjects for chosen in options for ratio in wanted]
    keys = [_key(content.get(name, name), run, evaluate is not None) for name, run in runs]
    with closing(RowFile(path)) if path is not None else nullcontext() as file:
        rows = dict(file.rows) if file else {}
        left = [i for i, key in enumerate(keys) if key not in rows]
        needed = {name: subjects[name] for name in dict.fromkeys(runs[i][0] for i in left)}
        done = len(runs) - len(left)
        ticks = track(range(len(runs)), "sweep", progress)
        for _ in range(done + 1):
            next(ticks, None)

        def look() -> None:
            if callable(progress):
                progress(done, len(runs))

        for i, row in completed(executor, run_one, needed, [runs[i] for i in left], look):
            rows[keys[left[i]]] = row
            if file:
                file.add(keys[left[i]], row)
            done += 1
            next(ticks, None)
    return _frame(runs, [rows[key] for key in keys])


def run_one(subject: Subject, run: Mapping[str, Any], progress: Progress = False) -> Row:
    """Compute one row; a ratio out of reach gives a row, too."""
    began = time.perf_counter()
    try:
        quantized = fit(subject.selection, **run, progress=progress)
    except OutOfReachError as error:
        return {"error": str(error)}
    row: Row = {name: getattr(quantized, name) for name in NUMBERS}
    row["seconds"] = time.perf_counter() - began
    if subject.evaluate is not None:
        assert subject.model is not None
        row |= _found(subject.evaluate(quantized.apply(subject.model)))
    return row


def _found(found: Found) -> Row:
    if isinstance(found, Evaluation):
        return found.to_row()
    if not isinstance(found, Mapping):
        return {"score": float(found)}
    taken = [name for name in found if name in (*COLUMNS, *methods.option_names(), "method", "model", "ratio", "key")]
    if taken:
        raise TypeError(
            f"results of evaluate must not be named like columns of a sweep, but {', '.join(taken)} are: rename them."
        )
    return {str(name): float(value) for name, value in found.items()}


def _options(method: str | Mapping[str, Any]) -> dict[str, Any]:
    require("a method", method, (str, Mapping), "must be a name, or options with its name", 'pass "ecsq"')
    chosen = {"method": method} if isinstance(method, str) else dict(method)
    if "method" not in chosen:
        raise ValueError(f"a method must be a name, or options of which one is 'method', but got {method!r}.")
    try:
        methods.family(**chosen)
    except TypeError as error:
        raise ValueError(f"a method must be a name, or options with its name, but got {method!r}: {error}") from None
    return chosen


def _ratio(ratio: float) -> float:
    if not math.isfinite(ratio) or ratio <= 0:
        raise ValueError(f"ratios must be finite and above 0, but got {ratio!r}")
    return float(ratio)


def _subject(name: str, model: Model, evaluate: Callable[[nn.Module], Found] | None) -> Subject:
    module: nn.Module | None = None
    if isinstance(model, Selection):
        selection = model
    elif isinstance(model, tuple):
        module, selection = model
    else:
        module, selection = model if isinstance(model, nn.Module) else None, select(model)
    if evaluate is not None and module is None:
        raise ValueError(
            f"evaluate needs a module, but model {name!r} has none: give it as (module, nbquant.select(module))."
        )
    return Subject(selection, module if evaluate is not None else None, evaluate)


def _digest(selection: Selection) -> str:
    """Digest of the values to be quantized."""
    found = hashlib.blake2b(digest_size=16)
    found.update(repr((selection.unselected_bits, selection.unselected_count)).encode())
    for tensor in selection:
        found.update(repr((tensor.name, tensor.layer)).encode())
        for values in (tensor.weight, tensor.sensitivity):
            _update(found, values)
    if selection.calibration is not None:
        for name, outputs in selection.calibration.outputs.items():
            found.update(name.encode())
            _update(found, outputs)
    return found.hexdigest()


def _update(found: "hashlib.blake2b", values: Tensor | None) -> None:
    if values is None:
        found.update(b"none")
        return
    found.update(repr((values.dtype, tuple(values.shape))).encode())
    flat = values.detach().reshape(-1)
    for begin in range(0, len(flat), PIECE):
        found.update(flat[begin : begin + PIECE].cpu().contiguous().view(torch.uint8).numpy().data)


def _key(content: str, run: Mapping[str, Any], evaluated: bool) -> str:
    said = json.dumps([content, dict(sorted(run.items())), evaluated], default=repr)
    return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()


def _frame(runs: Sequence[tuple[str, Mapping[str, Any]]], rows: Sequence[Row]) -> pd.DataFrame:
    named = [name for name in ("method", *methods.option_names()) if any(name in run for _, run in runs)]
    columns = ["model", *named, "ratio", *COLUMNS]
    found = [{"model": name, **run, **row} for (name, run), row in zip(runs, rows, strict=True)]
    others = dict.fromkeys(key for row in found for key in row if key not in columns)
    return pd.DataFrame(found, columns=[*columns, *others])
