"""Exercises of notebook 06: your own model."""

import warnings
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from nbquant.course.answers import AnswerError, attempt, call, cut, explained, several, shown
from nbquant.course.exercise import Exercise, bundled, generator
from nbquant.models.select import select
from nbquant.sensitivity.estimate import sensitivity

RESNET = "resnet8-fashion"
MOST_PATTERNS = 100


class Two(nn.Module):
    """A network that solves two tasks at once and returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.a, self.b = nn.Linear(16, 8), nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute outputs (n, 3) and (n, 1) from inputs (n, 16)."""
        features = self.body(x)
        return self.a(features), self.b(features)


def _wrapper(answer: object) -> str | None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Two()
        inputs = torch.randn(8, 16)
    wrapped = call(answer, network)
    if not isinstance(wrapped, nn.Module):
        return f"its result must be a torch.nn.Module, but it is a {type(wrapped).__name__}."
    found = attempt(lambda: wrapped(inputs))
    if not isinstance(found, Tensor):
        return f"its output must be one tensor, but is a {type(found).__name__}."
    if found.shape != (8, 3) or not torch.equal(found, network(inputs)[0]):
        return "its output must be that of the first task."
    own = sum(1 for _ in wrapped.parameters())
    if own != 6:
        return f"its parameters must be the network's six, so that they can be selected, but it has {own}."
    batches = [(inputs, torch.arange(8) % 3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # h of the other task is zero, as it should be
        attempt(lambda: sensitivity(wrapped, batches, "gauss_newton", progress=False))
    return None


def _loader(answer: object) -> str | None:
    x, y = torch.randn(6, 4, generator=generator()), torch.arange(6)
    batches = [{"image": x[i : i + 2], "label": y[i : i + 2]} for i in range(0, 6, 2)]
    pairs: Any = call(answer, batches)
    for time in ("first", "second"):
        try:
            read = list(islice(pairs, len(batches) + 1))
        except (Exception, SystemExit) as error:  # the student's, of any kind
            raise AnswerError(f"reading it for the {time} time raised {explained(error)}") from error
        if time == "second" and not read:
            return "it yields nothing when it is read for the second time: a generator is exhausted after the first."
        if len(read) != len(batches):
            came = len(read) if len(read) < len(batches) else "more"
            return f"{len(batches)} batches go in, but {came} come out."
        for batch, pair in zip(batches, read, strict=True):
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                return f"it must yield pairs, but yields a {type(pair).__name__}."
            if not all(isinstance(a, Tensor) and torch.equal(a, b) for a, b in zip(pair, batch.values(), strict=True)):
                return "each pair must have the images and the labels of a batch, in that order."
    return None


def _patterns(answer: object) -> str | None:
    patterns = (answer,) if isinstance(answer, str) else several(answer, MOST_PATTERNS)
    if not 1 <= len(patterns) <= MOST_PATTERNS:
        raise AnswerError(f"a pattern or a list of patterns is required, but {shown(answer)} came.")
    names = [each for each in patterns if isinstance(each, str)]
    if other := [each for each in patterns if not isinstance(each, str)]:
        raise AnswerError(f"each pattern must be text, but {shown(other[0])} came.")
    model, _ = bundled(RESNET)
    wanted = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    try:
        found = {t.name for t in select(model, layers=names)}
    except (TypeError, ValueError) as error:
        raise AnswerError(cut(f"nq.select refuses it: {error}")) from error
    if surplus := sorted(found - wanted):
        return f"{surplus[0]} is selected too, but it belongs to no convolution."
    if missing := wanted - found:
        return f"{len(missing)} of {len(wanted)} convolutions are missing."
    return None


EXERCISES = {
    "06.1": Exercise(
        "A network for two tasks returns a tuple. Write FirstOnly(network): a module that returns only the first of "
        "the two outputs, so that nq.sensitivity(FirstOnly(network), …) works.",
        (
            "Write a subclass of torch.nn.Module.",
            "Keep the network as an attribute, so that its parameters are registered.",
            "Call super().__init__() first, then set self.network = network; forward(self, x) returns "
            "self.network(x)[0].",
        ),
        _wrapper,
    ),
    "06.2": Exercise(
        'Write pairs(batches): from batches of dicts {"image": …, "label": …}, return an iterable of '
        "(image, label) that can be read any number of times.",
        (
            "nbquant reads a loader once for sensitivities and again for the loss.",
            "A generator can be read only once, so a function with yield is not enough.",
            "Return a list of pairs; if memory is short, return an object of a class whose __iter__ makes a new "
            "generator.",
        ),
        _loader,
    ),
    "06.3": Exercise(
        f'Which layers= selects all convolutions of "{RESNET}", and nothing else? (a pattern, or a list of patterns)',
        (
            "nq.select(model, layers=…) shows what it selects.",
            "* matches any part of a name, dots included; a list combines patterns.",
            "The names of all convolutions contain the same word, and no other layer's name does: put a * on both "
            "sides of it.",
        ),
        _patterns,
    ),
}
