"""Answers that are files: how small, and what the network in them is worth."""

import os
from collections.abc import Callable

from torch import nn

from nbquant.course.exercise import ROUNDING, AnswerError, accuracy
from nbquant.models.lenet import LeNet5
from nbquant.storage.stored import load


def examine_file(name: str, most_bytes: int, enough: Callable[[], float]) -> Callable[[object], str | None]:
    """What looks at a file that is to hold a bundled network.

    Args:
        name: Of the network, a LeNet-5.
        most_bytes: The largest size.
        enough: The least accuracy, of all test images.
    """

    def examine(answer: object) -> str | None:
        model, size = _restored(answer)
        if size > most_bytes:
            return f"the file has {size:,} bytes, but {most_bytes:,} are the most."
        if (found := accuracy(model, name)) < enough() - ROUNDING:
            return f"the network in it is right on {found:.2%} of the test images, but {enough():.2%} are the least."
        return None

    return examine


def _restored(answer: object) -> tuple[nn.Module, int]:
    if not isinstance(answer, str | os.PathLike):
        raise AnswerError(
            f"the path of a .nbq file is required, but a {type(answer).__name__} came: nq.save writes one."
        )
    try:
        stored = load(answer)
        restored = stored.apply(LeNet5().eval())
    except (OSError, ValueError) as error:
        raise AnswerError(f"the file cannot be used: {error}") from error
    return restored, stored.size
