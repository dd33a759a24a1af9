"""Checkers of answers that are files: size, and accuracy of the stored network."""

import os
from collections.abc import Callable

from torch import nn

from nbquant.course.answers import AnswerError, cut, shown
from nbquant.course.exercise import ROUNDING, accuracy
from nbquant.models.lenet import LeNet5
from nbquant.storage.stored import load


def examine_file(name: str, most_bytes: int, enough: Callable[[], float]) -> Callable[[object], str | None]:
    """Make the checker of a file with a bundled network.

    Args:
        name: Name of the network, a LeNet-5.
        most_bytes: Largest size [byte].
        enough: Returns the least accuracy on all test images.
    """

    def examine(answer: object) -> str | None:
        model, size = _restored(answer)
        if size > most_bytes:
            return f"the file has {size:,} bytes, but at most {most_bytes:,} are allowed."
        if (found := accuracy(model, name)) < enough() - ROUNDING:
            return f"its network has an accuracy of {found:.2%} on all test images, but {enough():.2%} is required."
        return None

    return examine


def _restored(answer: object) -> tuple[nn.Module, int]:
    if not isinstance(answer, str | os.PathLike):
        raise AnswerError(f"the path of a .nbq file is required, but {shown(answer)} came: nq.save writes one.")
    try:
        stored = load(answer)
        restored = stored.apply(LeNet5().eval())
    except (OSError, ValueError) as error:
        raise AnswerError(cut(f"the file cannot be used: {error}")) from error
    return restored, stored.size
