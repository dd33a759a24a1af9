"""A data set as the explorer needs it: something to measure sensitivities on, to train on and to test on."""

from dataclasses import dataclass

from nbquant.models.batches import Batches

CALIBRATION_SAMPLES = 1000  # the paper's 1,000 of 50,000 gave nearly the curve of all


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three sets of batches.

    Attributes:
        name: What it is called in titles.
        calibration: Some of the training samples, for sensitivities.
        train: Training samples.
        test: Samples that nothing was or is chosen on.
    """

    name: str
    calibration: Batches
    train: Batches
    test: Batches
