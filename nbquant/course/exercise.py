"""What an exercise is, and how answers of any kind are read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from nbquant.models import zoo
from nbquant.models.dataset import Dataset
from nbquant.models.evaluate import evaluate

CLOSE = 1e-4  # relative: answers are worked out in float32, or by hand to a few digits
ROUNDING = 1e-9  # of an accuracy


@dataclass(frozen=True)
class Exercise:
    """A question, what helps, and what looks at an answer.

    Attributes:
        question: What is asked for, with the types and shapes of arguments and results.
        hints: One after the other says more.
        examine: Returns what is wrong with an answer; None if it is right.
    """

    question: str
    hints: tuple[str, ...]
    examine: Callable[[Any], str | None]


class AnswerError(Exception):
    """An answer cannot be looked at, for the reason said."""


def number(answer: object) -> float:
    """An answer that must be a number."""
    try:
        return float(answer)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        raise AnswerError(f"a number is required, but {answer!r:.80} came.") from None


def call(answer: object, *arguments: object) -> object:
    """What an answer that must be a function returns; of tensors it gets copies."""
    if not callable(answer):
        raise AnswerError(f"a function is required, but a {type(answer).__name__} came: pass it by its name, uncalled.")
    copies = [a.clone() if isinstance(a, Tensor) else a for a in arguments]
    return attempt(lambda: answer(*copies))


def attempt(run: Callable[[], Any]) -> Any:
    """What a student's code returns; whatever it raises is the verdict."""
    try:
        return run()
    except Exception as error:  # the student's, of any kind
        raise AnswerError(f"it raised {type(error).__name__}: {error}") from error


def tensor(found: object, shape: Sequence[int]) -> Tensor:
    """What a function returned, where that must be a tensor of a shape."""
    try:
        values = torch.as_tensor(found).detach().double()
    except (TypeError, ValueError, RuntimeError):
        raise AnswerError(f"it must return a tensor, but returned {found!r:.80}.") from None
    if tuple(values.shape) != tuple(shape):
        raise AnswerError(f"it must return the shape {tuple(shape)}, but returned {tuple(values.shape)}.")
    return values


def same(found: float | Tensor, expected: float | Tensor) -> bool:
    """Whether they are equal but for rounding."""
    a, b = torch.as_tensor(found, dtype=torch.float64), torch.as_tensor(expected, dtype=torch.float64)
    return bool(((a - b).abs() <= CLOSE * b.abs().clamp_min(1e-9)).all())


def generator() -> torch.Generator:
    """The same random numbers every time."""
    return torch.Generator().manual_seed(0)


@cache
def bundled(name: str) -> tuple[nn.Module, Dataset]:
    """A network of the zoo, and its data."""
    return zoo.load(name)


@cache
def accuracy_of(name: str) -> float:
    """Accuracy of a bundled network on all its test images."""
    return accuracy(bundled(name)[0], name)


def accuracy(model: nn.Module, name: str) -> float:
    """Accuracy of a network on all test images of a bundled one."""
    found = evaluate(model, bundled(name)[1].test, progress=False).accuracy
    assert found is not None
    return found
