"""Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747) from its four idx files."""

import gzip
import math
import os
import zlib
from functools import cache
from io import BufferedIOBase
from pathlib import Path

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from nbquant.models.batches import Batches
from nbquant.models.dataset import Dataset

MEAN, STD = 0.2860, 0.3530
"""Mean and standard deviation of all training pixels, scaled to [0, 1]."""

BLACK = (0 - MEAN) / STD
"""The normalised value of a pixel without light; the pictures' background."""

CLASSES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")

FOLDER_VARIABLE = "NBQUANT_FASHION_MNIST"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
BUNDLED_FOLDER = Path(__file__).parent / "data"

_CALIBRATION_SAMPLES = 1000
_MOST_BYTES = 1 << 30
_CHUNK = 1 << 20


def read_idx(path: Path, shape: tuple[int | None, ...]) -> UInt8[Tensor, "..."]:
    """Read unsigned bytes from an idx file, packed with gzip if its name ends in ``.gz``.

    Args:
        path: The file.
        shape: The required size of every dimension; None takes any.

    Returns:
        The bytes, in the shape that the file's head declares.

    Raises:
        ValueError: Not gzip, or not idx of unsigned bytes in this shape, or of another length than declared.

    Source: the format is described at the end of https://yann.lecun.com/exdb/mnist/.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _read_idx(file, path, shape)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} must be a whole gzip file, but: {error}: copy or download it again.") from error


def _read_idx(file: BufferedIOBase, path: Path, shape: tuple[int | None, ...]) -> UInt8[Tensor, "..."]:
    required = bytes((0, 0, 8, len(shape)))
    magic = file.read(4)
    if magic != required:
        raise ValueError(
            f"{path} must begin with {required.hex(' ')} (idx, unsigned bytes, {len(shape)} dimensions), but begins "
            f"with {magic.hex(' ') or 'nothing'}: check that it is the file its name says."
        )
    head = file.read(4 * len(shape))
    if len(head) < 4 * len(shape):
        raise ValueError(f"{path} ends inside its head, after {4 + len(head)} bytes: copy or download it again.")
    sizes = tuple(int.from_bytes(head[4 * i : 4 * i + 4], "big") for i in range(len(shape)))
    if any(size == 0 or wanted not in (None, size) for size, wanted in zip(sizes, shape, strict=True)):
        wanted_sizes = "×".join("n" if wanted is None else str(wanted) for wanted in shape)
        raise ValueError(
            f"{path} must hold {wanted_sizes} bytes (n ≥ 1), but declares {'×'.join(map(str, sizes))}: "
            "check that it belongs to Fashion-MNIST."
        )
    declared = math.prod(sizes)
    if declared > _MOST_BYTES:
        raise ValueError(f"{path} may declare at most {_MOST_BYTES:,} bytes, but declares {declared:,}: it is damaged.")
    # In chunks, so that memory follows what the file really holds and never what its head claims.
    content = bytearray()
    while chunk := file.read(min(_CHUNK, declared + 1 - len(content))):
        content += chunk
    if len(content) != declared:
        came = f"only {len(content):,}" if len(content) < declared else "more"
        raise ValueError(
            f"{path} declares {declared:,} bytes after its head, but holds {came}: copy or download it again."
        )
    return torch.frombuffer(content, dtype=torch.uint8).reshape(sizes)


def normalise(image: UInt8[Tensor, "n 28 28"]) -> Float[Tensor, "n 1 28 28"]:
    """Pixels as the bundled networks want them: (x/255 − mean)/std, with one channel."""
    return image.unsqueeze(1).to(torch.float32).div_(255).sub_(MEAN).div_(STD)


def read_split(folder: Path, split: str) -> tuple[UInt8[Tensor, "n 28 28"], Int64[Tensor, " n"]]:
    """Read the images and classes of one split.

    Args:
        folder: Where ``<split>-images-idx3-ubyte`` and ``<split>-labels-idx1-ubyte`` are, with or without ``.gz``.
        split: "train" or "t10k" (the test images).

    Returns:
        Pixels 0 to 255, and classes 0 to 9.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: A file is damaged, or the two do not fit together.
    """
    images = read_idx(_find_file(folder, f"{split}-images-idx3-ubyte"), (None, 28, 28))
    labels = read_idx(_find_file(folder, f"{split}-labels-idx1-ubyte"), (None,))
    if len(images) != len(labels):
        raise ValueError(
            f"{folder} must hold as many labels as images, but holds {len(images)} images and {len(labels)} labels of "
            f"{split!r}: take both files from the same place."
        )
    if int(labels.max()) >= len(CLASSES):
        raise ValueError(
            f"labels must be 0 to 9, but {int((labels >= len(CLASSES)).sum())} of {len(labels)} in {folder} are not "
            f"(max {int(labels.max())}): check that they belong to Fashion-MNIST."
        )
    return images, labels.to(torch.int64)


def _find_file(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"{name}.gz (or unpacked, without .gz) is required, but {folder} "
        f"{'does not have it' if folder.is_dir() else 'is no folder'}: {_HOW_TO_GET}"
    )


_HOW_TO_GET = (
    "install the Debian or Ubuntu package dataset-fashion-mnist (apt install dataset-fashion-mnist), or name a folder "
    f"with the four idx files by folder=… or the environment variable {FOLDER_VARIABLE}."
)


def load(folder: str | Path | None = None) -> Dataset:
    """Load the full set: 60,000 training and 10,000 test images, about 220 MB in memory.

    Args:
        folder: Where the four idx files are. None takes the folder that the environment variable
            ``NBQUANT_FASHION_MNIST`` names, or the one of the Debian package dataset-fashion-mnist.

    Raises:
        FileNotFoundError: There is no such folder, or a file is missing in it.
        ValueError: A file is damaged.
    """
    if folder is None:
        folder = os.environ.get(FOLDER_VARIABLE) or DEBIAN_FOLDER
    return _dataset("Fashion-MNIST", Path(folder))


@cache
def bundled() -> Dataset:
    """The slice that comes with the package: the first 4,000 training images and all 10,000 test images.

    Read on the first call and then shared, so do not write into its tensors.
    """
    return _dataset("Fashion-MNIST (bundled)", BUNDLED_FOLDER)


def _dataset(name: str, folder: Path) -> Dataset:
    train_images, train_labels = read_split(folder, "train")
    test_images, test_labels = read_split(folder, "t10k")
    train = Batches(normalise(train_images), train_labels, batch_size=100)
    return Dataset(
        name,
        calibration=train.take(min(_CALIBRATION_SAMPLES, train.samples)),
        train=train,
        test=Batches(normalise(test_images), test_labels, batch_size=500),
    )
