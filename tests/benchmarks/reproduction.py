"""Table 1 of the paper: the largest compression ratio of each method at which the accuracy still holds."""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from nbquant.analysis.accuracy import Images, Trial, Tune, evaluate_trial
from nbquant.analysis.curves import tabulated_pairs
from nbquant.analysis.statistics import Statistics
from nbquant.analysis.tabulated import TabulatedCurve, curve
from nbquant.analysis.target import Target
from nbquant.coding.ledger import Ledger
from nbquant.models.evaluate import evaluate
from nbquant.progress import Progress, track
from nbquant.quantization.methods import family
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.selection import Selection
from nbquant.storage.stored import load
from nbquant.storage.write import save

ORIGINAL, DEEP_COMPRESSION = "original", "Deep Compression"

PAPER: dict[str, dict[str | tuple[str, bool], tuple[float, float]]] = {
    "LeNet5, MNIST": {
        ORIGINAL: (99.25, 1.0),
        "pruned": (99.27, 10.13),
        ("kmeans", False): (99.27, 44.58),
        ("kmeans", True): (99.27, 47.16),
        ("uniform", False): (99.28, 51.25),
        ("ecsq", True): (99.27, 49.01),
        DEEP_COMPRESSION: (99.26, 39.00),
    },
    "ResNet-32, CIFAR-10": {
        ORIGINAL: (92.58, 1.0),
        "pruned": (92.58, 4.52),
        ("kmeans", False): (92.64, 18.25),
        ("kmeans", True): (92.67, 20.51),
        ("uniform", False): (92.68, 22.17),
        ("ecsq", True): (92.73, 21.01),
    },
    "AlexNet, ImageNet": {
        ORIGINAL: (57.16, 1.0),
        "pruned": (56.00, 7.91),
        ("kmeans", False): (56.12, 30.53),
        ("kmeans", True): (56.04, 33.71),
        ("uniform", False): (56.20, 40.65),
        DEEP_COMPRESSION: (57.22, 35.00),
    },
}
"""Accuracy [%] and compression ratio by the paper's column and method: pruned, Huffman-coded, fine-tuned.

Deep Compression (Han et al. 2016) as the paper cites it. The paper's uniform quantization may take either mean of a
cell; its numbers stand beside the plain one here.

Source: Choi et al. 2017 (arXiv:1612.01543), table 1.
"""

SPACING = 1.05  # between the ratios that are tried
LOST = 0.005  # of accuracy


@dataclass(frozen=True, eq=False)
class Question:
    """What a part of the table is about.

    Attributes:
        model: The network before quantization.
        selection: Of its weights, with sensitivities.
        choosing: Images that the operating points are chosen on.
        reporting: Other images, that the accuracies in the table are measured on.
        tune: How to fine-tune, on images that are neither; None leaves those rows out.
        lost: Largest loss of accuracy on ``choosing`` against ``model``, in [0, 1].
    """

    model: nn.Module
    selection: Selection
    choosing: Images
    reporting: Images
    tune: Tune | None = None
    lost: float = LOST


def operating_points(
    question: Question,
    methods: Sequence[tuple[str, bool]] = tabulated_pairs(),
    *,
    spacing: float = SPACING,
    progress: Progress = True,
) -> pd.DataFrame:
    """For each method the largest ratio at which no more than ``lost`` is lost, before and after fine-tuning.

    Ratios are tried that lie ``spacing`` apart, on a curve that is taken for falling: the one that is found holds and
    the next larger one does not. Where accuracy is not monotone in the ratio, a still larger one may hold as well. The
    file is written and read back: the accuracy is that of the network restored from it.

    Args:
        question: Network, images and how much may be lost.
        methods: Pairs of a method's name and whether it is weighted by sensitivity.
        spacing: Quotient of neighbouring ratios, above 1.
        progress: See :data:`nbquant.progress.Progress`; counts methods.

    Returns:
        One row a method and stage: ``method``, ``weighted``, ``finetuned``, ``levels``, ``accuracy`` on the images for
        reporting and ``lost`` there, ``chosen_lost`` on those for choosing, ``ratio`` of all the model's bytes to the
        file's, ``weights_ratio`` of the selected weights alone, ``bytes`` of the file, and the file's ledger
        [bit], a column a part. No row where no ratio holds.
    """
    if not spacing > 1:
        raise ValueError(f"spacing must be above 1, but got {spacing}: pass for example {SPACING}")
    statistics = Statistics.of(question.selection, progress)
    before = evaluate(question.model, question.choosing, progress=False).accuracy or 0.0
    original = evaluate(question.model, question.reporting, progress=False).accuracy or 0.0
    rows: list[dict[str, Any]] = []
    near: dict[bool, int] = {}
    for name, weighted in track(methods, "operating points", progress):
        search = _Search(
            question, TabulatedCurve(family(name, weighted=weighted), question.selection, statistics), spacing, before
        )
        start = near.get(False, search.count // 2)
        for finetuned in (False, True) if question.tune else (False,):
            found = largest(partial(search.holds, finetuned), search.count, start)
            if found is None:
                continue
            near[finetuned] = start = found
            trial = search.trial(finetuned, found)
            rows.append(
                {"method": name, "weighted": weighted, "finetuned": finetuned, "levels": trial.quantized.levels}
                | _of_file(trial.quantized, question, original)
                | {"chosen_lost": before - (trial.evaluation.accuracy or 0.0)}
            )
    return pd.DataFrame(rows)


def largest(holds: Callable[[int], bool], count: int, start: int) -> int | None:
    """The last index that holds, if all up to some index do and none after it; few calls if it is near ``start``.

    Where it is not so, an index that holds and whose next one does not (or that is the last one).

    Args:
        holds: Whether index 0 ≤ i < count does.
        count: Number of indices.
        start: Where to look first.

    Returns:
        The index; None if the first one does not hold, nor any other that was looked at.
    """
    low, high = -1, count  # hold, does not hold
    i, step = min(max(start, 0), count - 1), 1
    while low + 1 < high:
        if holds(i):
            low = i
        else:
            high = i
        if low < 0:
            i = max(i - step, 0)
        elif high == count:
            i = min(i + step, count - 1)
        else:
            i = (low + high) // 2
        step *= 2
    return low if low >= 0 else None


@dataclass(frozen=True, eq=False)
class _Search:
    """Trials of one method, by the index of their ratio; each is made once."""

    question: Question
    curve: TabulatedCurve
    spacing: float
    before: float
    made: dict[tuple[bool, int], Trial] = field(default_factory=dict)
    fitted: dict[int, Quantized] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Ratios spacing, spacing², … that the method reaches; a little short of the largest, at least one."""
        reach = max(p.compression_ratio for p in curve(self.curve.family, self.curve.statistics) if p.levels > 1)
        return max(1, int(math.log(0.99 * reach) / math.log(self.spacing)))

    def holds(self, finetuned: bool, index: int) -> bool:
        accuracy = self.trial(finetuned, index).evaluation.accuracy or 0.0
        # Differences of accuracies are multiples of one image; floats are not.
        return accuracy >= self.before - self.question.lost - 1e-9

    def trial(self, finetuned: bool, index: int) -> Trial:
        if (finetuned, index) not in self.made:
            q = self.question
            quantized = self._quantized(index)
            tuned = q.tune(quantized, q.model) if finetuned and q.tune else quantized
            self.made[finetuned, index] = evaluate_trial(tuned, q.model, q.choosing)[0]
        return self.made[finetuned, index]

    def _quantized(self, index: int) -> Quantized:
        if index not in self.fitted:
            target = Target("ratio", self.spacing ** (index + 1))
            self.fitted[index] = self.curve.fit(target)
        return self.fitted[index]


def _of_file(quantized: Quantized, question: Question, original: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quantized.nbq"
        ledger: Ledger = save(quantized, path, question.model, progress=False)
        stored = load(path)
        restored = stored.apply(question.model)
        ratio, size = stored.compression_ratio, path.stat().st_size
    accuracy = evaluate(restored, question.reporting, progress=False).accuracy or 0.0
    return {
        "accuracy": accuracy,
        "lost": original - accuracy,
        "ratio": ratio,
        "weights_ratio": quantized.compression_ratio,
        "bytes": size,
        **ledger,
    }


def beside_paper(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Put the paper's numbers beside those that compare with them: of pruned, fine-tuned networks.

    Args:
        rows: From :func:`operating_points`, of a pruned network.
        column: Key of :data:`PAPER`.

    Returns:
        The same with ``paper_accuracy`` [%] and ``paper_ratio``; NaN where the paper has none.
    """
    if column not in PAPER:
        raise ValueError(f"column must be one of {', '.join(map(repr, PAPER))}, but got {column!r}")
    known: Mapping[Any, tuple[float, float]] = PAPER[column]
    keys = zip(rows["method"], rows["weighted"], rows["finetuned"], strict=True)
    found = [known.get((m, w), (math.nan,) * 2) if f else (math.nan,) * 2 for m, w, f in keys]
    return rows.assign(paper_accuracy=[a for a, _ in found], paper_ratio=[r for _, r in found])
