"""CIFAR-10 (Krizhevsky 2009) from the binary version of the set."""

from pathlib import Path

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from nbquant.models.batches import Batches
from nbquant.models.dataset import CALIBRATION_SAMPLES, Dataset

TRAIN_FILES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST_FILES = ("test_batch.bin",)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

MEAN = (0.4914, 0.4822, 0.4465)
"""Mean of each channel over all training pixels, scaled to [0, 1]."""

STD = (0.2470, 0.2435, 0.2616)
"""Standard deviation of each channel."""

_SHAPE = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32  # a byte for the class, then the pixels by channel and row
_MOST_BYTES = 100_000 * _RECORD


def read_batch(path: Path) -> tuple[UInt8[Tensor, "n 3 32 32"], Int64[Tensor, " n"]]:
    """Read one file of records.

    Args:
        path: The file.

    Returns:
        Pixels 0 to 255, and classes 0 to 9.

    Raises:
        ValueError: No whole number of records, too many of them, or a class above 9.

    Source: the format is described at https://www.cs.toronto.edu/~kriz/cifar.html ("binary version").
    """
    size = path.stat().st_size
    if size == 0 or size % _RECORD or size > _MOST_BYTES:
        raise ValueError(
            f"{path} must hold 1 to {_MOST_BYTES // _RECORD:,} records of {_RECORD:,} bytes, but is {size:,} bytes "
            "long: take it from cifar-10-binary.tar.gz."
        )
    records = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8).reshape(-1, _RECORD)
    labels = records[:, 0].to(torch.int64)
    if int(labels.max()) >= len(CLASSES):
        raise ValueError(
            f"classes must be 0 to 9, but {int((labels >= len(CLASSES)).sum())} of {len(labels)} in {path} are not "
            f"(max {int(labels.max())}): take the binary version of CIFAR-10, not of CIFAR-100."
        )
    return records[:, 1:].reshape(-1, *_SHAPE), labels


def normalise(image: UInt8[Tensor, "n 3 32 32"]) -> Float[Tensor, "n 3 32 32"]:
    """Pixels as networks want them: (x/255 − mean)/std of the channel."""
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (MEAN, STD))
    return image.to(torch.float32).div_(255).sub_(mean).div_(std)


def load(folder: str | Path) -> Dataset:
    """Load the full set: 50,000 training and 10,000 test images, about 740 MB in memory.

    Args:
        folder: Where the six files of the binary version are, or the folder ``cifar-10-batches-bin`` with them.

    Raises:
        FileNotFoundError: There is no such folder, or a file is missing in it.
        ValueError: A file is damaged, or the folder holds the version for Python.
    """
    folder = Path(folder)
    inner = folder / "cifar-10-batches-bin"
    folder = inner if inner.is_dir() else folder
    train, test = (_read(folder, names) for names in (TRAIN_FILES, TEST_FILES))
    batches = Batches(*train, batch_size=100)
    return Dataset(
        "CIFAR-10",
        calibration=batches.take(min(CALIBRATION_SAMPLES, batches.samples)),
        train=batches,
        test=Batches(*test, batch_size=500),
    )


def _read(folder: Path, names: tuple[str, ...]) -> tuple[Float[Tensor, "n 3 32 32"], Int64[Tensor, " n"]]:
    for name in names:
        if (folder / name).is_file():
            continue
        pickled = [folder / name.removesuffix(".bin"), folder / "cifar-10-batches-py"]
        if any(path.exists() for path in pickled):
            raise ValueError(
                f"{folder} must hold the binary version of CIFAR-10, but holds the Python version, whose files are "
                "pickles: unpickling can run any code, so they are not read. Get cifar-10-binary.tar.gz."
            )
        raise FileNotFoundError(
            f"{name} is required, but {folder} {'does not have it' if folder.is_dir() else 'is no folder'}: "
            "unpack cifar-10-binary.tar.gz there."
        )
    images, labels = zip(*(read_batch(folder / name) for name in names), strict=True)
    return normalise(torch.cat(images)), torch.cat(labels)
