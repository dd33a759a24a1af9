"""Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747) from its four idx files."""

import os
from functools import cache
from pathlib import Path

from nbquant.models.dataset import Dataset
from nbquant.models.idx import load_idx

MEAN, STD = 0.2860, 0.3530
"""Mean and standard deviation of all training pixels, scaled to [0, 1]."""

BLACK = (0 - MEAN) / STD
"""Normalised value of a black pixel, the images' background."""

CLASSES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")

FOLDER_VARIABLE = "NBQUANT_FASHION_MNIST"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
BUNDLED_FOLDER = Path(__file__).parent / "data"

_HOW_TO_GET = (
    "install the Debian or Ubuntu package dataset-fashion-mnist (apt install dataset-fashion-mnist), or name a folder "
    f"with the four idx files by folder=… or the environment variable {FOLDER_VARIABLE}."
)


def load(folder: str | Path | None = None) -> Dataset:
    """Load the full data set: 60,000 training and 10,000 test images, about 220 MB in memory.

    Args:
        folder: Folder of the four idx files. None takes the environment variable
            ``NBQUANT_FASHION_MNIST``, or the folder of the Debian package dataset-fashion-mnist.

    Raises:
        FileNotFoundError: A missing folder or file.
        ValueError: A damaged file.
    """
    if folder is None:
        folder = os.environ.get(FOLDER_VARIABLE) or DEBIAN_FOLDER
    return load_idx("Fashion-MNIST", Path(folder), MEAN, STD, _HOW_TO_GET)


@cache
def bundled() -> Dataset:
    """Load the bundled slice: the first 4,000 training images and all 10,000 test images.

    It is read once and then shared, so do not modify its tensors.
    """
    return load_idx("Fashion-MNIST (bundled)", BUNDLED_FOLDER, MEAN, STD, _HOW_TO_GET)
