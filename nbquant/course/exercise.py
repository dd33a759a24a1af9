"""The record of an exercise, and readers of answers (numbers, functions, tensors)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from nbquant.models import zoo
from nbquant.models.dataset import Dataset
from nbquant.models.evaluate import evaluate

CLOSE = 1e-4  # relative tolerance: answers are computed in float32, or by hand to a few digits
ROUNDING = 1e-9  # tolerance of an accuracy


@dataclass(frozen=True)
class Exercise:
    """A question with three hints and a checker.

    Attributes:
        question: The question, with the types and shapes of arguments and results.
        hints: Three hints, each longer and more specific than the one before.
        examine: Returns the mistake in an answer; None if it is right.
    """

    question: str
    hints: tuple[str, str, str]
    examine: Callable[[Any], str | None]


class AnswerError(Exception):
    """An answer cannot be checked, for the given reason."""


class NotAnsweredError(Exception):
    """A function is still the stub that the notebook gives."""


def is_empty(answer: object) -> bool:
    """Whether an answer is still a placeholder: None, ``...``, empty text, or a collection of these."""
    if answer is None or answer is ...:
        return True
    if isinstance(answer, str):
        return not answer.strip()
    return isinstance(answer, list | tuple | dict) and all(is_empty(each) for each in answer)


def number(answer: object) -> float:
    """Read an answer that must be a number."""
    try:
        return float(answer)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        raise AnswerError(f"a number is required, but {answer!r:.80} came.") from None


def call(answer: object, *arguments: object) -> object:
    """Call an answer that must be a function, with copies of tensors, and return its result.

    Raises:
        AnswerError: It cannot be called, or raised an error.
        NotAnsweredError: It returned None, as a stub does.
    """
    if not callable(answer):
        raise AnswerError(f"a function is required, but a {type(answer).__name__} came: pass it by its name, uncalled.")
    copies = [a.clone() if isinstance(a, Tensor) else a for a in arguments]
    result = attempt(lambda: answer(*copies))
    if result is None:
        raise NotAnsweredError
    return result


def attempt(run: Callable[[], Any]) -> Any:
    """Run a student's code; any exception becomes the verdict."""
    try:
        return run()
    except Exception as error:  # the student's, of any kind
        raise AnswerError(f"it raised {type(error).__name__}: {error}") from error


def tensor(found: object, shape: Sequence[int]) -> Tensor:
    """Read a function's result that must be a tensor of a given shape."""
    try:
        values = torch.as_tensor(found).detach().double()
    except (TypeError, ValueError, RuntimeError):
        raise AnswerError(f"it must return a tensor, but returned {found!r:.80}.") from None
    if tuple(values.shape) != tuple(shape):
        raise AnswerError(f"it must return the shape {tuple(shape)}, but returned {tuple(values.shape)}.")
    return values


def same(found: float | Tensor, expected: float | Tensor) -> bool:
    """Whether two tensors are equal up to rounding."""
    a, b = torch.as_tensor(found, dtype=torch.float64), torch.as_tensor(expected, dtype=torch.float64)
    return bool(((a - b).abs() <= CLOSE * b.abs().clamp_min(1e-9)).all())


def generator() -> torch.Generator:
    """Make a generator of reproducible random numbers."""
    return torch.Generator().manual_seed(0)


@cache
def bundled(name: str) -> tuple[nn.Module, Dataset]:
    """Load a network of the zoo with its data."""
    return zoo.load(name)


@cache
def accuracy_of(name: str) -> float:
    """Measure the accuracy of a bundled network on all its test images."""
    return accuracy(bundled(name)[0], name)


def accuracy(model: nn.Module, name: str) -> float:
    """Measure the accuracy of a network on all test images of a bundled one."""
    found = evaluate(model, bundled(name)[1].test, progress=False).accuracy
    assert found is not None
    return found
