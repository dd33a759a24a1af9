"""MNIST (LeCun et al. 1998) from its four idx files."""

from pathlib import Path

from nbquant.models.dataset import Dataset
from nbquant.models.idx import load_idx

MEAN, STD = 0.1307, 0.3081
"""Mean and standard deviation of all training pixels, scaled to [0, 1]."""

_HOW_TO_GET = (
    "put train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte into one "
    "folder, packed with gzip or not."
)


def load(folder: str | Path) -> Dataset:
    """Load the full set: 60,000 training and 10,000 test images, about 220 MB in memory.

    Args:
        folder: Where the four idx files are.

    Raises:
        FileNotFoundError: There is no such folder, or a file is missing in it.
        ValueError: A file is damaged.
    """
    return load_idx("MNIST", Path(folder), MEAN, STD, _HOW_TO_GET)
