"""Accuracy of quantized networks against rate, by method and by sensitivity, before and after fine-tuning."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import nn

from nbquant.analysis.operating_point import OperatingPoint
from nbquant.analysis.statistics import Statistics
from nbquant.analysis.tabulated import curve, quantize_at
from nbquant.models.evaluate import Evaluation, evaluate
from nbquant.progress import Progress, track
from nbquant.quantization.method import Family
from nbquant.quantization.methods import family
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.selection import Selection

Images = Iterable[tuple[Any, Any]]
"""Batches of (inputs, targets), iterable any number of times."""

Tune = Callable[[Quantized, nn.Module], Quantized]
"""Maps a quantized selection and its model to the same selection with fine-tuned values, for instance
``lambda q, model: nq.finetune(q, model, batches).quantized``."""

PAPER_METHODS = (("kmeans", False), ("kmeans", True), ("uniform", False), ("ecsq", True))
"""The four curves of the paper's first figure."""

WEIGHTED_KMEANS = family("kmeans")
"""Method of the paper's second figure."""

BITS = (1, 2, 3, 4, 5, 6)
RATES = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0)


@dataclass(frozen=True, eq=False)
class Trial:
    """A quantized selection and the evaluation of the network with it.

    Attributes:
        quantized: The quantized selection.
        evaluation: Evaluation of the network with the quantized weights.
    """

    quantized: Quantized
    evaluation: Evaluation

    @property
    def codeword_length(self) -> float:
        """Average codeword length [bit/weight] over the weights that have a codeword."""
        books = self.quantized.codebooks.values()
        coded = sum(int(book.counts.sum()) for book in books)
        bits = sum(int(book.counts @ book.codeword_length) for book in books)
        return bits / coded if coded else 0.0


def evaluate_trial(quantized: Quantized, model: nn.Module, images: Images, tune: Tune | None = None) -> list[Trial]:
    """Evaluate the network with quantized weights, and again after fine-tuning if requested.

    Args:
        quantized: What :func:`nbquant.fit` returned.
        model: The model selected from; unchanged.
        images: Batches to evaluate on.
        tune: Fine-tuning; None skips it.
    """
    versions = [quantized] if tune is None else [quantized, tune(quantized, model)]
    return [Trial(q, evaluate(q.apply(model), images, progress=False)) for q in versions]


def accuracy_by_method(
    model: nn.Module,
    selection: Selection,
    images: Images,
    tune: Tune | None = None,
    *,
    methods: Sequence[tuple[str, bool]] = PAPER_METHODS,
    bits: Sequence[int] = BITS,
    rates: Sequence[float] = RATES,
    progress: Progress = True,
) -> pd.DataFrame:
    """Tabulate accuracy against average codeword length for fixed-length and Huffman codes.

    Args:
        model: The model selected from.
        selection: From :func:`nbquant.select`, with sensitivities.
        images: Batches to evaluate on.
        tune: Fine-tuning; None leaves out the fine-tuned rows.
        methods: Pairs of a method's name and whether it is weighted by sensitivity.
        bits: Codeword lengths b of the fixed-length codes: the points of least distortion with at most 2ᵇ levels.
        rates: Rates of the Huffman codes [bit/weight], side information included: the points of each curve
            nearest to them.
        progress: See :data:`nbquant.progress.Progress`; counts points.

    Returns:
        One row per point: ``method``, ``weighted``, ``coding``, ``finetuned``, ``levels``, ``codeword_length``
        [bit/weight], ``rate``, ``compression_ratio``, ``accuracy`` in [0, 1], ``loss``.

    Source: Choi et al. 2017 (arXiv:1612.01543), figure 1.
    """
    statistics = Statistics.of(selection, progress)
    points: list[OperatingPoint] = []
    for method, weighted in methods:
        points += _with_levels(curve(family(method, weighted=weighted, coding="fixed"), statistics), bits)
        points += _near_rates(curve(family(method, weighted=weighted), statistics), rates)
    rows: list[dict[str, Any]] = []
    for point in track(points, "accuracy of methods", progress):
        rows += _rows(point, model, selection, statistics, images, tune)
    return pd.DataFrame(rows, columns=_COLUMNS)


def accuracy_by_sensitivity(
    model: nn.Module,
    selections: Mapping[str, Selection],
    images: Images,
    tune: Tune | None = None,
    *,
    method: Family = WEIGHTED_KMEANS,
    rates: Sequence[float] = RATES,
    progress: Progress = True,
) -> pd.DataFrame:
    """Tabulate accuracy against average codeword length for several sensitivities.

    Args:
        model: The model selected from.
        selections: Label of each sensitivity -> the selection with it.
        images: Batches to evaluate on.
        tune: Fine-tuning; None leaves out the fine-tuned rows.
        method: Quantization method; weighted.
        rates: As for :func:`accuracy_by_method`.
        progress: See :data:`nbquant.progress.Progress`; counts points.

    Returns:
        As :func:`accuracy_by_method`, with a first column ``sensitivity``, its label.

    Source: Choi et al. 2017 (arXiv:1612.01543), figure 2.
    """
    if not method.weighted:
        raise ValueError(f"method must be weighted, since sensitivities are compared, but got {method}.")
    found = {name: Statistics.of(selection, progress) for name, selection in selections.items()}
    jobs = [(name, p) for name, statistics in found.items() for p in _near_rates(curve(method, statistics), rates)]
    rows: list[dict[str, Any]] = []
    for name, point in track(jobs, "accuracy by sensitivity", progress):
        made = _rows(point, model, selections[name], found[name], images, tune)
        rows += [{"sensitivity": name, **row} for row in made]
    return pd.DataFrame(rows, columns=("sensitivity", *_COLUMNS))


_COLUMNS = (
    "method",
    "weighted",
    "coding",
    "finetuned",
    "levels",
    "codeword_length",
    "rate",
    "compression_ratio",
    "accuracy",
    "loss",
)


def _with_levels(points: Sequence[OperatingPoint], bits: Sequence[int]) -> list[OperatingPoint]:
    fitting = ([p for p in points if p.levels <= 2**b] for b in bits)
    return _once(min(some, key=lambda p: p.distortion) for some in fitting if some)


def _near_rates(points: Sequence[OperatingPoint], rates: Sequence[float]) -> list[OperatingPoint]:
    return _once(min(points, key=lambda p: abs(p.rate - rate)) for rate in rates)


def _once(points: Iterable[OperatingPoint]) -> list[OperatingPoint]:
    return list({id(p): p for p in points}.values())


def _rows(
    point: OperatingPoint,
    model: nn.Module,
    selection: Selection,
    statistics: Statistics,
    images: Images,
    tune: Tune | None,
) -> list[dict[str, Any]]:
    quantized = quantize_at(selection, point, statistics)
    rows = []
    for finetuned, trial in enumerate(evaluate_trial(quantized, model, images, tune)):
        q = trial.quantized
        how = (q.quantizer.method, q.quantizer.weighted, q.quantizer.coding, bool(finetuned))
        cost = (q.levels, trial.codeword_length, q.rate, q.compression_ratio)
        rows.append(dict(zip(_COLUMNS, (*how, *cost, trial.evaluation.accuracy, trial.evaluation.loss), strict=True)))
    return rows
