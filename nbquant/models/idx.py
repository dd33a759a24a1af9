"""Data sets in MNIST's idx files: images of 28×28 bytes and their classes."""

import gzip
import math
import zlib
from io import BufferedIOBase
from pathlib import Path

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from nbquant.models.batches import Batches
from nbquant.models.dataset import CALIBRATION_SAMPLES, Dataset

CLASSES = 10

_MOST_BYTES = 1 << 30
_CHUNK = 1 << 20


def read_idx(path: Path, shape: tuple[int | None, ...]) -> UInt8[Tensor, "..."]:
    """Read unsigned bytes from an idx file, packed with gzip if its name ends in ``.gz``.

    Args:
        path: The file.
        shape: Required size of every dimension; None for any.

    Returns:
        The bytes, in the shape declared by the file's header.

    Raises:
        ValueError: Not gzip, or not idx of unsigned bytes in this shape, or not of the declared length.

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
        raise ValueError(f"{path} ends inside its header, after {4 + len(head)} bytes: copy or download it again.")
    sizes = tuple(int.from_bytes(head[4 * i : 4 * i + 4], "big") for i in range(len(shape)))
    if any(size == 0 or wanted not in (None, size) for size, wanted in zip(sizes, shape, strict=True)):
        wanted_sizes = "×".join("n" if wanted is None else str(wanted) for wanted in shape)
        raise ValueError(
            f"{path} must hold {wanted_sizes} bytes (n ≥ 1), but declares {'×'.join(map(str, sizes))}: "
            "check that it belongs to the data set."
        )
    declared = math.prod(sizes)
    if declared > _MOST_BYTES:
        raise ValueError(f"{path} may declare at most {_MOST_BYTES:,} bytes, but declares {declared:,}: it is damaged.")
    # In chunks, so that memory follows the real content and never the header's claim.
    content = bytearray()
    while chunk := file.read(min(_CHUNK, declared + 1 - len(content))):
        content += chunk
    if len(content) != declared:
        came = f"only {len(content):,}" if len(content) < declared else "more"
        raise ValueError(
            f"{path} declares {declared:,} bytes after its header, but holds {came}: copy or download it again."
        )
    return torch.frombuffer(content, dtype=torch.uint8).reshape(sizes)


def read_split(folder: Path, split: str, how_to_get: str) -> tuple[UInt8[Tensor, "n 28 28"], Int64[Tensor, " n"]]:
    """Read the images and classes of one split.

    Args:
        folder: Folder of ``<split>-images-idx3-ubyte`` and ``<split>-labels-idx1-ubyte``, with or without ``.gz``.
        split: "train" or "t10k" (the test images).
        how_to_get: Advice for a user who lacks the files.

    Returns:
        Pixels 0 to 255, and classes 0 to 9.

    Raises:
        FileNotFoundError: A missing file.
        ValueError: A damaged file, or two that do not fit together.
    """
    images = read_idx(_find_file(folder, f"{split}-images-idx3-ubyte", how_to_get), (None, 28, 28))
    labels = read_idx(_find_file(folder, f"{split}-labels-idx1-ubyte", how_to_get), (None,))
    if len(images) != len(labels):
        raise ValueError(
            f"{folder} must hold as many labels as images, but holds {len(images)} images and {len(labels)} labels of "
            f"{split!r}: take both files from the same place."
        )
    if int(labels.max()) >= CLASSES:
        raise ValueError(
            f"labels must be 0 to 9, but {int((labels >= CLASSES).sum())} of {len(labels)} in {folder} are not "
            f"(max {int(labels.max())}): check that they belong to the data set."
        )
    return images, labels.to(torch.int64)


def _find_file(folder: Path, name: str, how_to_get: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"{name}.gz (or unpacked, without .gz) is required, but {folder} "
        f"{'does not have it' if folder.is_dir() else 'is no folder'}: {how_to_get}"
    )


def normalise(image: UInt8[Tensor, "n 28 28"], mean: float, std: float) -> Float[Tensor, "n 1 28 28"]:
    """Normalise pixels to (x/255 − mean)/std, with one channel."""
    return image.unsqueeze(1).to(torch.float32).div_(255).sub_(mean).div_(std)


def load_idx(name: str, folder: Path, mean: float, std: float, how_to_get: str) -> Dataset:
    """Load a data set from its four idx files.

    Args:
        name: Name of the data set.
        folder: Folder of the files.
        mean: Mean of all training pixels, scaled to [0, 1].
        std: Standard deviation of them.
        how_to_get: Advice for a user who lacks the files.

    Raises:
        FileNotFoundError: A missing file.
        ValueError: A damaged file.
    """
    (train_images, train_labels), (test_images, test_labels) = (
        read_split(folder, split, how_to_get) for split in ("train", "t10k")
    )
    train = Batches(normalise(train_images, mean, std), train_labels, batch_size=100)
    return Dataset(
        name,
        calibration=train.take(min(CALIBRATION_SAMPLES, train.samples)),
        train=train,
        test=Batches(normalise(test_images, mean, std), test_labels, batch_size=500),
    )
