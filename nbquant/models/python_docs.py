"""Text of the Python documentation, for training and testing small character models."""

import gzip
import os
import re
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from nbquant.models.batches import Batches
from nbquant.models.dataset import Dataset

VOCABULARY = 128
"""Vocabulary size: ASCII bytes; any other character becomes a question mark."""

WINDOW = 128
"""Characters per sample; the targets are the characters that follow them."""

FOLDER_VARIABLE = "NBQUANT_PYTHON_DOCS"
DEBIAN_FOLDER = Path("/usr/share/doc/python3.11/html/_sources")
BUNDLED_FOLDER = Path(__file__).parent / "data"
PARTS = ("tutorial", "howto", "faq", "reference", "library")
"""Folders of the documentation that are read."""

HELD_OUT = 20
"""One file in so many, in alphabetical order, is used for testing."""

_AUTHOR = re.compile(r"^ *\.\. \w*author::.*\n", re.MULTILINE)
_ADDRESS = re.compile(r"[\w.+-]+@[\w-]+(\.[\w-]+)+")
_CALIBRATION = 256  # windows
_MOST_BYTES = 1 << 27


def load(folder: str | Path | None = None) -> Dataset:
    """Load the sources of the whole documentation, about eight million characters.

    Args:
        folder: Folder of its sources (``*.rst.txt``), in the subfolders :data:`PARTS`. None takes the
            environment variable ``NBQUANT_PYTHON_DOCS``, or the folder of the Debian package python3.11-doc.

    Raises:
        FileNotFoundError: Missing files.
        ValueError: Too little text for one training and one test window.
    """
    return _dataset("Python documentation", *_texts(folder))


def write_bundle(out: Path, folder: str | Path | None = None, pieces: int = 128, length: int = 4096) -> None:
    """Write the bundled slice: evenly spaced pieces of the training text, and all of the test text.

    Args:
        out: Folder to write to.
        folder: As for :func:`load`.
        pieces: Number of pieces.
        length: Characters per piece.
    """
    train, test = _texts(folder)
    starts = [len(train) * i // pieces for i in range(pieces)]
    chosen = torch.cat([train[start : start + length] for start in starts])
    for split, text in (("train", chosen), ("test", test)):
        packed = gzip.compress(bytes(text.numpy()), 9, mtime=0)
        (out / f"python-docs-{split}.txt.gz").write_bytes(packed)


def _texts(folder: str | Path | None) -> tuple[UInt8[Tensor, " n"], UInt8[Tensor, " m"]]:
    """Training and test text of the sources in a folder."""
    folder = Path(folder or os.environ.get(FOLDER_VARIABLE) or DEBIAN_FOLDER)
    files = [path for part in PARTS for path in sorted((folder / part).glob("*.rst.txt"))]
    if not files:
        raise FileNotFoundError(
            f"sources of the Python documentation (*.rst.txt) are required, but there are none in the folders "
            f"{', '.join(PARTS)} of {folder}: install the Debian package python3.11-doc, or name a folder by folder=… "
            f"or the environment variable {FOLDER_VARIABLE}."
        )
    test = [path for number, path in enumerate(files) if number % HELD_OUT == HELD_OUT // 2]
    train = [path for path in files if path not in test]
    return _joined(train), _joined(test)


@cache
def bundled() -> Dataset:
    """Load the bundled slice: pieces of the training text, and all of the test text.

    It is read once and then shared, so do not modify its tensors.

    Raises:
        ValueError: A damaged file.
    """
    train, test = (_unpacked(BUNDLED_FOLDER / f"python-docs-{split}.txt.gz") for split in ("train", "test"))
    return _dataset("Python documentation (bundled)", train, test)


def characters(text: str) -> UInt8[Tensor, " n"]:
    """Convert text to the tokens of the model."""
    return torch.from_numpy(np.frombuffer(text.encode("ascii", "replace"), np.uint8).copy())


def _joined(paths: list[Path]) -> UInt8[Tensor, " n"]:
    """Concatenate texts, without author lines and addresses."""
    text = "\n\n".join(path.read_text(encoding="utf-8") for path in paths)
    return characters(_ADDRESS.sub("someone@example.org", _AUTHOR.sub("", text)))


def _unpacked(path: Path) -> UInt8[Tensor, " n"]:
    try:
        with gzip.open(path) as file:
            raw = file.read(_MOST_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} must be a whole gzip file, but: {error}: install the package again.") from error
    if len(raw) > _MOST_BYTES:
        raise ValueError(f"{path} must hold at most {_MOST_BYTES:,} bytes, but holds more: install the package again.")
    return characters(raw.decode("ascii", "replace"))


def _dataset(name: str, train: UInt8[Tensor, " n"], test: UInt8[Tensor, " n"]) -> Dataset:
    for split, text in (("training", train), ("test", test)):
        if len(text) <= WINDOW:
            raise ValueError(
                f"at least {WINDOW + 1} characters are required, but the {split} text has {len(text)}: name a folder "
                f"with more sources (every {HELD_OUT}th file is for testing)."
            )
    windows = _windows(train)
    return Dataset(
        name, calibration=windows.take(min(_CALIBRATION, windows.samples)), train=windows, test=_windows(test)
    )


def _windows(text: UInt8[Tensor, " n"]) -> Batches:
    count = (len(text) - 1) // WINDOW
    inputs, targets = (text[start : start + count * WINDOW].reshape(count, WINDOW).long() for start in (0, 1))
    return Batches(inputs, targets, batch_size=32)
