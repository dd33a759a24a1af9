"""Data sets with batches for calibration, training and testing."""

from dataclasses import dataclass

from nbquant.models.batches import Batches

CALIBRATION_SAMPLES = 1000  # in the paper, 1,000 of 50,000 gave nearly the same curve as all


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set with three parts.

    Attributes:
        name: Name in titles.
        calibration: A subset of the training samples, for sensitivities.
        train: Training samples.
        test: Samples never used for training or tuning.
    """

    name: str
    calibration: Batches
    train: Batches
    test: Batches
