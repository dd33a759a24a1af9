"""Reader of answers that are several numbers."""

from nbquant.course.exercise import AnswerError, NotAnsweredError, number


def numbers(answer: object, what: tuple[str, ...]) -> tuple[float, ...]:
    """Read an answer that must be several numbers.

    Args:
        answer: The answer.
        what: What each of them is.

    Raises:
        AnswerError: Another number of them, or something else.
        NotAnsweredError: One of them is still None.
    """
    found: tuple[object, ...]
    try:
        found = tuple(answer)  # type: ignore[arg-type]
    except TypeError:
        found = ()
    if isinstance(answer, str) or len(found) != len(what):
        raise AnswerError(f"{len(what)} numbers are required: {', '.join(what)}; but {answer!r:.80} came.")
    if any(each is None for each in found):
        raise NotAnsweredError
    return tuple(map(number, found))
