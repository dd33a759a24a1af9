"""Run a network on its data: estimate, prune, fine-tune, measure; one at a time."""

import copy
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nbquant.analysis.prediction import LossPrediction, predict_loss
from nbquant.models.evaluate import Evaluation, Loss, evaluate
from nbquant.models.flips import Flips, find_flips
from nbquant.pipeline.finetune import FineTuned, finetune
from nbquant.pipeline.prune import Pruned, prune
from nbquant.quantization.moments import Calibration, Choice, LayerMoments, Part
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.validate import QUANTIZABLE
from nbquant.sensitivity.calibration import calibrate
from nbquant.sensitivity.estimate import sensitivity
from nbquant.widgets.calibration import first_samples
from nbquant.widgets.jobs.slot import Report

GLANCE = 1.0  # s that the accuracy of a point at rest may take
FIRST_SAMPLES = 32  # by which the speed is found
GROWTH = 16  # most times that a glance is made larger at once


@dataclass(frozen=True)
class Data:
    """What the explorer measures and trains on.

    Attributes:
        calibration: Batches (inputs, target) for sensitivities.
        test: Batches for accuracy.
        train: Batches to fine-tune on.
    """

    calibration: Iterable[Any]
    test: Iterable[Any]
    train: Iterable[Any]

    @staticmethod
    def of(data: Any) -> "Data":
        """Data of anything with ``calibration`` and ``test``, or of one iterable of batches for all.

        Without ``train`` the calibration batches are trained on.

        Raises:
            TypeError: Neither.
            ValueError: An iterator, which could be read only once.
        """
        if hasattr(data, "calibration") and hasattr(data, "test"):
            data = Data(data.calibration, data.test, getattr(data, "train", data.calibration))
        elif isinstance(data, Iterable):
            data = Data(data, data, data)
        else:
            raise TypeError(
                "data must have .calibration and .test, or be an iterable of (inputs, target) batches such as a "
                f"DataLoader, but got a {type(data).__name__}"
            )
        for name in ("calibration", "test", "train"):
            if isinstance(getattr(data, name), Iterator):
                raise ValueError(f"data is read more than once, but {name} is an iterator: pass a list or a DataLoader")
        return data


@dataclass(frozen=True, eq=False)
class _Guarded:
    """A calibration that waits for the model, as others put hooks on it."""

    known: Calibration
    in_use: Any  # threading.RLock, which is no class

    @property
    def outputs(self) -> Mapping[str, Tensor]:
        return self.known.outputs

    @property
    def parts(self) -> Mapping[str, Part]:
        return self.known.parts

    @property
    def diagonals(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        return self.known.diagonals

    def moments(self, layer: str, changed: Mapping[str, Tensor]) -> LayerMoments:
        with self.in_use:
            return self.known.moments(layer, changed)

    def in_turn(self, choose: Choice, changed: Mapping[str, Tensor]) -> None:
        with self.in_use:
            self.known.in_turn(choose, changed)


class Network:
    """A module and its data.

    Attributes:
        model: The module, used here alone.
        data: Its data.
        loss: loss(output, target), the mean over a batch; None is cross-entropy.
    """

    def __init__(self, model: nn.Module, data: Data, loss: Loss | None) -> None:
        """Take over a module."""
        self.model, self.data, self.loss = model, data, loss
        self._original = model
        self._glance = 0  # samples of a glance, once they are known
        self._in_use = threading.RLock()  # layers that are quantized in turn ask for moments meanwhile

    @staticmethod
    def of(origin: nn.Module | Path, data: Any, loss: Loss | None) -> "Network | None":
        """A network with its data; None without data.

        Raises:
            TypeError: See :meth:`Data.of`.
            ValueError: The same; data that come with the path of a checkpoint.
        """
        if isinstance(origin, nn.Module):
            return None if data is None else Network(origin, Data.of(data), loss)
        if data is not None:
            raise ValueError(
                f"data need a module to run through, but came with the checkpoint {str(origin)!r}: load it into its "
                "module and pass that, or leave the data out."
            )
        return None

    def with_model(self, model: nn.Module) -> "Network":
        """The same with another module, that is still compared with the original."""
        other = copy.copy(self)
        other.model = model
        return other

    def estimate(self, estimator: str, samples: int, report: Report) -> Mapping[str, Tensor]:
        """Sensitivities of all parameters, frozen ones too, from so many calibration samples; 0 is all."""
        with self._exclusive(report):
            batches = first_samples(self.data.calibration, samples)
            names = [name for name, parameter in self.model.named_parameters() if parameter.dtype in QUANTIZABLE]
            return sensitivity(self.model, batches, estimator, loss=self.loss, parameters=names, progress=report)

    def calibrate(self, report: Report) -> Calibration:
        """What error feedback needs, from the training batches; each of its looks at the model is one's own."""
        with self._exclusive(report):
            return _Guarded(calibrate(self.model, self.data.train, loss=self.loss, progress=report), self._in_use)

    def predict(self, quantized: Quantized, h: Mapping[str, Tensor] | None, report: Report) -> LossPrediction:
        """What is predicted of the loss on the calibration batches, beside what is measured there."""
        with self._exclusive(report):
            return predict_loss(self.model, quantized, self.data.calibration, h, self.loss, report)

    def evaluate(self, quantized: Quantized, report: Report) -> tuple[Evaluation, Evaluation]:
        """How good the quantized model is, and how good the original."""
        with self._exclusive(report):
            network = quantized.apply(self.model)
            found = evaluate(network, self.data.test, self.loss, report, reference=self._original)
            assert found.reference is not None
            return found, found.reference

    def glance(self, quantized: Quantized, report: Report) -> tuple[Evaluation, Evaluation, bool]:
        """Evaluate both on as many test samples as take about :data:`GLANCE` seconds: the first ones.

        Returns:
            How good the quantized model is, how good the original, and whether these were all samples.
        """
        with self._exclusive(report):
            found, whole = self._at_a_glance(quantized.apply(self.model), self._original, report)
            assert found.reference is not None
            return found, found.reference, whole

    def compare(self, quantized: Quantized, other: Quantized, report: Report) -> tuple[Evaluation, bool]:
        """Evaluate one result against another, on as many of the first test samples as :meth:`glance`.

        Returns:
            How good the quantized model is, with the other as the reference, and whether these were all samples.
        """
        with self._exclusive(report):
            return self._at_a_glance(quantized.apply(self.model), other.apply(self.model), report)

    def flips(self, quantized: Quantized, report: Report) -> tuple[Flips, bool]:
        """Compare the answers with the original's, on as many of the first test samples as :meth:`glance`.

        Returns:
            What differs, and whether these were all samples.
        """
        with self._exclusive(report):
            network = quantized.apply(self.model)
            if not self._glance:
                self._at_a_glance(network, self._original, report)
            batches = first_samples(self.data.test, self._glance)
            found = find_flips(network, self._original, batches, self.loss, progress=report)
            return found, found.samples < self._glance

    def evaluations(self, quantized: Quantized, report: Report) -> Iterator[Evaluation]:
        """Evaluate the quantized model against the original on all test samples, batch by batch."""
        network = quantized.apply(self.model)
        for batch in self.data.test:
            report(0, None)
            with self._exclusive(report):
                found = evaluate(network, [batch], self.loss, False, reference=self._original)
            yield found

    def _at_a_glance(self, network: nn.Module, reference: nn.Module, report: Report) -> tuple[Evaluation, bool]:
        """Evaluate on the first samples that take about :data:`GLANCE` seconds; and whether these were all."""
        if not self._glance:  # torch's first run takes longer
            self._glance = FIRST_SAMPLES
            evaluate(network, first_samples(self.data.test, self._glance), self.loss, report)
        while True:
            begun, count = time.monotonic(), self._glance
            batches = first_samples(self.data.test, count)
            found = evaluate(network, batches, self.loss, report, reference=reference)
            took = max(time.monotonic() - begun, 1e-3)
            whole = found.samples < count  # there were no more
            if whole or took > GLANCE / 2:
                return found, whole
            self._glance = count * min(GROWTH, max(2, round(GLANCE / took)))

    def finetune(self, quantized: Quantized, epochs: int, report: Report) -> FineTuned:
        """Fine-tune the codebook values; the loss on the test batches is looked at, but nothing is chosen by it."""
        with self._exclusive(report):
            return finetune(
                quantized,
                self.model,
                self.data.train,
                epochs=epochs,
                loss=self.loss,
                validation=self.data.test,
                progress=report,
            )

    def prune(self, density: float, report: Report) -> Pruned:
        """Prune the original, and train what is left on the way."""
        with self._exclusive(report):
            return prune(self._original, density, self.data.train, loss=self.loss, progress=report)

    @contextmanager
    def _exclusive(self, report: Report) -> Iterator[None]:
        """Lock the model, as estimating puts hooks on it; waiting for it can be cancelled."""
        while not self._in_use.acquire(timeout=0.1):
            report(0, None)
        try:
            yield
        finally:
            self._in_use.release()
