"""Readers of answers: numbers, lists, functions and tensors."""

import inspect
import math
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

CLOSE = 1e-4  # relative tolerance: answers are computed in float32, or by hand to a few digits
SHOWN = 80  # characters of an answer in a message
EXPLAINED = 240  # characters of an error's message
_NUMBER = re.compile(r"[+\-−]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?")
UNORDERED = str | bytes | dict | set | frozenset


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


def shown(answer: object) -> str:
    """Write an answer for a message, cut if it is long."""
    try:
        return cut(repr(answer), SHOWN)
    except Exception:  # the student's, or an integer of too many digits
        return f"an object of type {type(answer).__name__}"


def cut(text: str, most: int = EXPLAINED) -> str:
    """Cut a text that is longer than a number of characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def explained(error: BaseException) -> str:
    """Write an error for a message: its type and its text, cut if it is long."""
    try:
        text = str(error)
    except Exception:  # the student's
        text = ""
    return cut(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def number(answer: object, finite: bool = True) -> float:
    """Read an answer that must be a number.

    Args:
        answer: The answer: a number, a tensor or array of one number, or text of a number.
        finite: Whether inf and nan are refused.

    Raises:
        AnswerError: Something else.
    """
    value = answer
    try:
        if isinstance(answer, Tensor | np.ndarray | np.generic):
            value = answer.item()
        if isinstance(value, bool | complex):
            raise TypeError
        found = float(value)  # type: ignore[arg-type]
    except OverflowError:
        raise AnswerError(f"a number with fewer than 309 digits is required, but {shown(answer)} came.") from None
    except Exception:  # of a student's class, of any kind
        raise AnswerError(_no_number(answer)) from None
    if finite and not math.isfinite(found):
        raise AnswerError(f"a finite number is required, but {shown(answer)} came.")
    return found


def _no_number(answer: object) -> str:
    """Say what came instead of a number, and how to mend it."""
    if isinstance(answer, str):
        came, plain = f"a number is required, but the text {shown(answer)} came", _written(answer)
        return f"{came}: write {plain}, without quotes." if plain else f"{came}."
    came = f"a number is required, but {shown(answer)} came"
    if callable(answer):
        return f"{came}: pass the number, not a function."
    if isinstance(answer, tuple) and len(answer) > 1:
        return f"{came}: write one number, without a comma."
    return f"{came}."


def _written(text: str) -> str | None:
    """Find the only number in a text, as Python writes it."""
    found = _NUMBER.findall(text)
    if len(found) != 1 or len(found[0]) > SHOWN:
        return None
    plain = found[0].replace("−", "-")
    if _THOUSANDS.fullmatch(plain):
        return plain.replace(",", "")
    return plain.replace(",", ".") if plain.count(",") + plain.count(".") <= 1 else None


def several(answer: object, most: int) -> tuple[object, ...]:
    """Read an answer that must be a list; () if it is none, and one more than ``most`` entries if it is longer."""
    try:
        entries = iter(cast(Iterable[object], answer))
    except Exception:  # not iterable, or a student's class
        return ()
    return () if isinstance(answer, UNORDERED) else attempt(lambda: tuple(islice(entries, most + 1)))


def numbers(answer: object, what: tuple[str, ...], finite: bool = True) -> tuple[float, ...]:
    """Read an answer that must be several numbers.

    Args:
        answer: The answer.
        what: What each of them is.
        finite: Whether inf and nan are refused.

    Raises:
        AnswerError: Another number of them, or something else.
        NotAnsweredError: One of them is still None.
    """
    found = several(answer, len(what))
    if len(found) != len(what):
        advice = ": pass the numbers, not a function" if callable(answer) else ""
        raise AnswerError(f"{len(what)} numbers are required: {', '.join(what)}; but {shown(answer)} came{advice}.")
    if any(each is None or each is ... for each in found):
        raise NotAnsweredError
    return tuple(number(each, finite) for each in found)


def call(answer: object, *arguments: object) -> object:
    """Call an answer that must be a function, with copies of tensors, and return its result.

    Raises:
        AnswerError: It cannot be called, takes another number of arguments, or raised an error.
        NotAnsweredError: It returned None, as a stub does.
    """
    if not callable(answer):
        raise AnswerError(f"a function is required, but {shown(answer)} came: pass it by its name, uncalled.")
    _require_arguments(answer, len(arguments))
    copies = [a.clone() if isinstance(a, Tensor) else a for a in arguments]
    result = attempt(lambda: answer(*copies))
    if result is None:
        raise NotAnsweredError
    return result


def _require_arguments(answer: Callable[..., Any], count: int) -> None:
    """Refuse a function that does not take so many arguments."""
    try:
        signature = inspect.signature(answer)
    except (TypeError, ValueError):  # some functions written in C have none
        return
    try:
        signature.bind(*range(count))
    except TypeError:
        needs = "one argument" if count == 1 else f"{count} arguments"
        raise AnswerError(
            f"a function of {needs} is required, but yours has the arguments {cut(str(signature), SHOWN)}: take those "
            "of the question, in the same order."
        ) from None


def attempt(run: Callable[[], Any]) -> Any:
    """Run a student's code; any error and any exit becomes the verdict, but not an interrupt from the keyboard."""
    try:
        return run()
    except (Exception, SystemExit) as error:  # the student's, of any kind
        raise AnswerError(f"it raised {explained(error)}") from error


def tensor(found: object, shape: Sequence[int], finite: bool = True) -> Tensor:
    """Read a function's result that must be a tensor of a given shape.

    Args:
        found: The result.
        shape: The shape.
        finite: Whether inf and nan are refused.

    Raises:
        AnswerError: No tensor of real numbers, or another shape.
    """
    if not isinstance(found, Tensor | np.ndarray):
        found = several(found, shape[0]) or found
    try:
        values = torch.as_tensor(found).detach()
    except Exception:  # lists of other objects, integers of too many digits
        raise AnswerError(f"it must return a tensor, but returned {shown(found)}.") from None
    if values.dtype == torch.bool or values.is_complex():
        raise AnswerError(f"it must return a tensor of real numbers, but returned {values.dtype}.")
    if tuple(values.shape) != tuple(shape):
        raise AnswerError(f"it must return the shape {tuple(shape)}, but returned {tuple(values.shape)}.")
    if finite and not bool(values.isfinite().all()):
        raise AnswerError(f"it must return finite numbers, but returned {shown(found)}.")
    return values.double()


def same(found: float | Tensor, expected: float | Tensor) -> bool:
    """Whether two tensors are equal up to rounding."""
    a, b = torch.as_tensor(found, dtype=torch.float64), torch.as_tensor(expected, dtype=torch.float64)
    return bool(((a - b).abs() <= CLOSE * b.abs().clamp_min(1e-9)).all())
