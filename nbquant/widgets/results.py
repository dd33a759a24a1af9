"""What the explorer measured, and what it wrote."""

from dataclasses import dataclass
from pathlib import Path

from nbquant.analysis.operating_point import OperatingPoint
from nbquant.analysis.prediction import LossPrediction
from nbquant.coding.ledger import Ledger
from nbquant.models.evaluate import Evaluation
from nbquant.quantization.quantized import Quantized


@dataclass(frozen=True)
class Measurement:
    """Accuracy and loss of the quantized model beside the original's.

    Attributes:
        point: Operating point they were measured at.
        quantized: What was applied: computed from the weights themselves, and fine-tuned if it had been then.
        evaluation: Of the quantized model.
        original: Of the original model.
        prediction: What was predicted of the loss, on the calibration batches; None until it is there, or where the
            model does not allow for it.
    """

    point: OperatingPoint
    quantized: Quantized
    evaluation: Evaluation
    original: Evaluation
    prediction: LossPrediction | None = None


@dataclass(frozen=True)
class Saved:
    """A file that was written.

    Attributes:
        path: Where it is.
        quantized: What is in it.
        ledger: Every bit of the file by its part.
    """

    path: Path
    quantized: Quantized
    ledger: Ledger

    @property
    def size(self) -> int:
        """Size of the file [bytes]."""
        return self.ledger.total // 8

    @property
    def compression_ratio(self) -> float:
        """Bits of all the model's tensors before, over those of the file."""
        return (self.quantized.source_bits + self.quantized.unselected_bits) / self.ledger.total
