"""The record of an exercise, and what checkers of several notebooks measure."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from nbquant.models import zoo
from nbquant.models.dataset import Dataset
from nbquant.models.evaluate import evaluate

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
