"""Right answers are accepted, wrong ones refused with a reason that does not give the right one away."""

import math
import runpy
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

import nbquant as nq
from nbquant.course import COUNTS, EXERCISES, check, hint, question

ROOT = Path(__file__).resolve().parents[1]
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.py"))


def raises(*_):
    raise KeyError("mine")


def fixed(n, k, b):
    return n * b / (n * math.ceil(math.log2(k)) + k * b)


def entropy(counts):
    p = np.array([n for n in counts if n]) / sum(counts)
    return float(-(p * np.log2(p)).sum())


RIGHT = {
    "03.1": [0.75, torch.tensor(0.75), np.float32(0.75)],
    "03.2": [lambda h, d: 0.5 * (h * d * d).sum(), lambda h, d: float(h.flatten() @ d.flatten() ** 2) / 2],
    "03.3": [lambda x, p: (p * (1 - p)).T @ x**2 / len(x)],
    "04.1": [fixed],
    "04.2": [entropy],
    "04.3": [[1, 2, 3, 4, 4], (1, 2, 3, 4, 4), torch.tensor([1, 2, 3, 4, 4])],
    "04.4": [lambda w, h, c, ell, lmbda: (0.5 * h[:, None] * (w[:, None] - c) ** 2 + lmbda * ell).argmin(1)],
}

WRONG = {
    "03.1": [
        (0.5, "both errors cost the same"),
        (0.25, "whose error costs less"),
        (1.5, "outside of the weights"),
        (0.7, "derivative"),
        ("three quarters", "a number is required"),
        (None, "a number is required"),
    ],
    "03.2": [
        (lambda h, d: (h * d * d).sum(), "twice"),
        (lambda h, d: 0.5 * (h * d * d).mean(), "a mean over weights"),
        (lambda h, d: 0.5 * (h * d).sum(), "opposite signs"),
        (lambda h, d: 0.5 * (d * d).sum(), "does not depend on h"),
        (lambda h, d: 3.0, "not what a second-order"),
        (lambda h, d: h * d, "a number is required"),
        (raises, "raised KeyError: 'mine'"),
        (1.0, "a function is required"),
    ],
    "03.3": [
        (lambda x, p: (p * (1 - p)).T @ x**2, "the sum over samples"),
        (lambda x, p: p.T @ x**2 / len(x), "what is taken off"),
        (lambda x, p: (p * (1 - p)).T @ x / len(x), "in twice"),
        (lambda x, p: -(p.T @ x**2), "negative"),
        (lambda x, p: p.T @ x**2 + 1, "autograd"),
        (lambda x, p: x, "the shape"),
        (lambda x, p: "h", "must return a tensor"),
    ],
    "04.1": [
        (lambda n, k, b: n * b / (n * math.log2(k) + k * b), "whole number of bits"),
        (lambda n, k, b: b / max(math.ceil(math.log2(k)), 1e-9), "needs the codebook"),
        (lambda n, k, b: 1 / fixed(n, k, b), "below 1"),
        (lambda n, k, b: 7.0, "off by a factor"),
    ],
    "04.2": [
        (lambda counts: entropy(counts) * math.log(2), "nats"),
        (lambda counts: -entropy(counts), "wrong sign"),
        (lambda counts: entropy(counts) * sum(counts), "all of them together"),
        (lambda counts: 0.0, "less than"),
        (lambda counts: 9.0, "more than"),
        (lambda counts: entropy(counts) if all(counts) else float("nan"), "0·log 0"),
    ],
    "04.3": [
        ([1, 2, 3, 3, 3], "more than 1"),
        ([3, 3, 3, 3, 3], "leaves room"),
        ([2, 2, 2, 3, 3], "fewer bits"),
        ([1, 2, 3], "5 lengths are required"),
        ([0, 2, 3, 4, 4], "a bit at least"),
        (3, "a list of whole numbers"),
    ],
    "04.4": [
        (lambda w, h, c, ell, lmbda: ((w[:, None] - c) ** 2).argmin(1), "nearest value"),
        (lambda w, h, c, ell, lmbda: (0.5 * (w[:, None] - c) ** 2 + lmbda * ell).argmin(1), "h is not in it"),
        (lambda w, h, c, ell, lmbda: (h[:, None] * (w[:, None] - c) ** 2 + lmbda * ell).argmin(1), "without the ½"),
        (lambda w, h, c, ell, lmbda: torch.zeros(200), "some weights"),
        (lambda w, h, c, ell, lmbda: c, "the shape"),
    ],
}


def test_every_exercise_is_tried():
    assert list(RIGHT) == list(WRONG) == list(EXERCISES)


@pytest.mark.parametrize(("number", "answer"), [(n, a) for n, answers in RIGHT.items() for a in answers])
def test_right_answers_are_accepted(number, answer):
    verdict = check(number, answer)
    assert verdict
    assert repr(verdict) == f"✓ {number}: right."


@pytest.mark.parametrize(("number", "answer", "said"), [(n, *a) for n, answers in WRONG.items() for a in answers])
def test_wrong_answers_are_refused_with_a_reason(number, answer, said):
    verdict = check(number, answer)
    assert not verdict
    assert said in verdict.said
    assert repr(verdict).startswith("✗")


@pytest.mark.parametrize("number", EXERCISES)
def test_hints(number):
    assert question(number)
    assert hint(number) == hint(number, 1) != hint(number, 2)
    with pytest.raises(ValueError, match="hints 1 to 2, but 3"):
        hint(number, 3)


def test_no_such_exercise():
    with pytest.raises(ValueError, match=r"did you mean '03\.1'"):
        check("3.1", 0)


def test_counts_are_in_the_question():
    assert str(COUNTS) in question("04.3")
    assert nq.course.check is check


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_solutions_are_right(path):
    """Each is of a notebook, and answers all exercises of its number and no other."""
    verdicts = runpy.run_path(str(path))["VERDICTS"]
    assert all(verdicts)
    assert [verdict.number for verdict in verdicts] == [n for n in EXERCISES if n.startswith(path.stem[:2])]
    assert (ROOT / "notebooks" / f"{path.stem}.ipynb").exists()


def test_all_exercises_are_in_notebooks_and_solved():
    asked = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
        asked += [
            number for number in EXERCISES if f'nq.course.check("{number}"' in text and path.stem[:2] == number[:2]
        ]
    assert asked == list(EXERCISES)
    assert {path.stem[:2] for path in SOLUTIONS} == {number[:2] for number in EXERCISES}
