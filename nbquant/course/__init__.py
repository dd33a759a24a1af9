"""Exercises of the course notebooks, with hints and checkers that do not give the answer away."""

import difflib
from dataclasses import dataclass

from nbquant.course import (
    evidence,
    explore,
    formats,
    helping_errors,
    hessian,
    limit,
    numbers_and_scales,
    own_model,
    pipeline,
    rate_distortion,
    scale,
    todays_formats,
    training,
)
from nbquant.course.answers import SHOWN, AnswerError, NotAnsweredError, cut, is_empty, shown
from nbquant.course.exercise import Exercise

NOT_ANSWERED = "not answered yet."

EXERCISES: dict[str, Exercise] = {
    number: exercise
    for notebook in (
        explore,
        pipeline,
        hessian,
        rate_distortion,
        limit,
        own_model,
        scale,
        formats,
        numbers_and_scales,
        todays_formats,
        helping_errors,
        training,
        evidence,
    )
    for number, exercise in notebook.EXERCISES.items()
}


@dataclass(frozen=True)
class Verdict:
    """Verdict on an answer.

    Attributes:
        number: Number of the exercise.
        right: Whether the answer is right; also ``bool(verdict)``.
        said: Explanation of the mistake, or a confirmation.
    """

    number: str
    right: bool
    said: str

    def __bool__(self) -> bool:
        return self.right

    def __repr__(self) -> str:
        mark = "✓" if self.right else "○" if self.said == NOT_ANSWERED else "✗"
        return f"{mark} {self.number}: {self.said}"


def check(number: str, answer: object) -> Verdict:
    """Check an answer.

    Args:
        number: Number of the exercise, such as "03.2".
        answer: A number, a name, a function, a result of :func:`nbquant.fit` or the path of a file, as the question
            requires. None, ``...``, empty text and a function that returns None count as not answered yet.

    Raises:
        ValueError: No exercise of that number.
    """
    exercise = _exercise(number)
    if is_empty(answer):
        return Verdict(number, False, NOT_ANSWERED)
    try:
        wrong = exercise.examine(answer)
    except NotAnsweredError:
        wrong = NOT_ANSWERED
    except AnswerError as error:
        wrong = str(error)
    return Verdict(number, wrong is None, wrong or "right.")


def question(number: str) -> str:
    """Show the question of an exercise.

    Raises:
        ValueError: No exercise of that number.
    """
    return _exercise(number).question


def hint(number: str, which: int = 1) -> str:
    """Show the first hint, or the more specific second or third one.

    Raises:
        ValueError: No exercise of that number, or no hint.
    """
    hints = _exercise(number).hints
    if isinstance(which, bool) or which not in range(1, len(hints) + 1):
        raise ValueError(
            f"exercise {number} has hints 1 to {len(hints)}, but {shown(which)} was requested: pass a whole number, as "
            f'in nq.course.hint("{number}", 2).'
        )
    return hints[int(which) - 1]


def _exercise(number: str) -> Exercise:
    if not isinstance(number, str) or number not in EXERCISES:
        typed = cut(number, SHOWN) if isinstance(number, str) else shown(number)
        near = difflib.get_close_matches(typed.zfill(4), EXERCISES, n=1, cutoff=0)  # "3.1" is 03.1
        raise ValueError(
            f"the number of an exercise is required, one of {', '.join(EXERCISES)}, but {typed!r} came: did you "
            f"mean {near[0]!r}?"
        )
    return EXERCISES[number]
