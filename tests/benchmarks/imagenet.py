"""ImageNet's images (Russakovsky et al. 2015) from folders of JPEG files, decoded as they are needed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

CLASSES = 1000
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of each channel, scaled to [0, 1], as torchvision's weights were trained with."""

_SHORT_SIDE, _CROP = 256, 224
_SUFFIXES = (".jpeg", ".jpg", ".png")


@dataclass(frozen=True)
class ImageFiles:
    """A sized sequence of (inputs, targets), decoded at each pass; in memory is one batch.

    Attributes:
        paths: The files.
        targets: Their classes.
        batch_size: Images in a batch; the last one may have fewer.
    """

    paths: tuple[Path, ...]
    targets: tuple[int, ...]
    batch_size: int = 50

    @property
    def samples(self) -> int:
        """Number of images."""
        return len(self.paths)

    def __len__(self) -> int:
        """Number of batches."""
        return -(-self.samples // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Float[Tensor, "n 3 224 224"], Int64[Tensor, " n"]]]:
        for start in range(0, self.samples, self.batch_size):
            part = slice(start, start + self.batch_size)
            yield torch.stack([read_image(path) for path in self.paths[part]]), torch.tensor(self.targets[part])

    def spread(self, n_samples: int) -> "ImageFiles":
        """At most so many of the images, evenly spaced, so that all classes have their share."""
        if n_samples >= self.samples:
            return self
        chosen = np.linspace(0, self.samples - 1, n_samples).round().astype(int)
        return self._at(chosen)

    def every(self, n: int, first: int) -> "ImageFiles":
        """Every n-th image, from number ``first`` on."""
        return self._at(range(first, self.samples, n))

    def _at(self, indices: Sequence[int] | np.ndarray) -> "ImageFiles":
        return replace(
            self, paths=tuple(self.paths[i] for i in indices), targets=tuple(self.targets[i] for i in indices)
        )


def image_files(folder: Path, classes: int = CLASSES) -> ImageFiles:
    """Find the images of one split; none is opened.

    Args:
        folder: One folder a class, whose names in alphabetical order are the classes 0, 1, …: for ImageNet "n01440764"
            and so on.
        classes: Number of classes required.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: Another number of class folders, or one without images.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"a folder of images is required, but {folder} is none.")
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    if len(folders) != classes:
        raise ValueError(
            f"{folder} must hold {classes:,} folders, one a class, but holds {len(folders):,}: sort the validation "
            "images into folders named by their WordNet ids."
        )
    found = [sorted(p for p in one.iterdir() if p.suffix.lower() in _SUFFIXES) for one in folders]
    empty = [one.name for one, images in zip(folders, found, strict=True) if not images]
    if empty:
        raise ValueError(
            f"every class folder in {folder} must hold an image, but {len(empty)} hold none, first {empty[0]!r}."
        )
    return ImageFiles(
        tuple(p for images in found for p in images), tuple(c for c, images in enumerate(found) for _ in images)
    )


def read_image(path: Path) -> Float[Tensor, "3 224 224"]:
    """Decode one image: the short side scaled to 256, the middle 224×224, (x/255 − mean)/std of the channel.

    Raises:
        ModuleNotFoundError: Pillow is not installed.
        ValueError: Not an image.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("decoding images takes Pillow: pip install pillow.", name="PIL") from error
    try:
        with Image.open(path) as image:
            pixels = image.convert("RGB")
    except OSError as error:  # Pillow's errors about content are OSErrors without a file name
        if error.filename is not None:
            raise
        raise ValueError(f"{path} must be a whole image, but: {error}: copy it again.") from error
    short = min(pixels.size)
    size = [max(_SHORT_SIDE, int(_SHORT_SIDE * side / short)) for side in pixels.size]
    left, top = (round((side - _CROP) / 2) for side in size)
    pixels = pixels.resize((size[0], size[1]), Image.Resampling.BILINEAR)
    values = np.array(pixels.crop((left, top, left + _CROP, top + _CROP)), dtype=np.float32) / 255
    mean, std = (torch.tensor(of).reshape(3, 1, 1) for of in (MEAN, STD))
    return (torch.from_numpy(values).permute(2, 0, 1) - mean) / std
