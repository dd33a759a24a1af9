"""Exercises of the notebooks, and checks that say what is wrong with an answer without giving the right one away."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nbquant.coding.entropy import entropy
from nbquant.coding.huffman import codeword_lengths
from nbquant.quantization.rate import code_ledger, lengths_for

CLOSE = 1e-4  # relative: answers are worked out in float32, or by hand to a few digits


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
        number: Of the exercise.
        right: Whether the answer is right; so is ``bool(verdict)``.
        said: What is wrong, or that nothing is.
    """

    number: str
    right: bool
    said: str

    def __bool__(self) -> bool:
        return self.right

    def __repr__(self) -> str:
        return f"{'✓' if self.right else '✗'} {self.number}: {self.said}"


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


def check(number: str, answer: object) -> Verdict:
    """Look at an answer.

    Args:
        number: Of the exercise, such as "03.2".
        answer: A number, numbers or a function, as the question says.

    Raises:
        ValueError: No exercise of that number.
    """
    exercise = _exercise(number)
    try:
        wrong = exercise.examine(answer)
    except _AnswerError as error:
        wrong = str(error)
    return Verdict(number, wrong is None, wrong or "right.")


def question(number: str) -> str:
    """What is asked for.

    Raises:
        ValueError: No exercise of that number.
    """
    return _exercise(number).question


def hint(number: str, which: int = 1) -> str:
    """The first hint, or a later one that says more.

    Raises:
        ValueError: No exercise of that number, or no hint.
    """
    hints = _exercise(number).hints
    if not 1 <= which <= len(hints):
        raise ValueError(f"exercise {number} has hints 1 to {len(hints)}, but {which} was asked for")
    return hints[which - 1]


def _exercise(number: str) -> Exercise:
    if number not in EXERCISES:
        near = difflib.get_close_matches(str(number), EXERCISES, n=1, cutoff=0)
        raise ValueError(
            f"the number of an exercise is required, one of {', '.join(EXERCISES)}, but {number!r} came: did you mean "
            f"{near[0]!r}?"
        )
    return EXERCISES[number]


class _AnswerError(Exception):
    """An answer cannot be looked at, for the reason said."""


def _number(answer: object) -> float:
    try:
        return float(answer)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        raise _AnswerError(f"a number is required, but {answer!r:.80} came.") from None


def _call(answer: object, *arguments: object) -> object:
    if not callable(answer):
        raise _AnswerError(
            f"a function is required, but a {type(answer).__name__} came: pass it by its name, uncalled."
        )
    copies = [a.clone() if isinstance(a, Tensor) else a for a in arguments]
    try:
        return answer(*copies)
    except Exception as error:  # the student's, of any kind
        raise _AnswerError(f"it raised {type(error).__name__}: {error}") from error


def _tensor(found: object, shape: Sequence[int]) -> Tensor:
    try:
        values = torch.as_tensor(found).detach().double()
    except (TypeError, ValueError, RuntimeError):
        raise _AnswerError(f"it must return a tensor, but returned {found!r:.80}.") from None
    if tuple(values.shape) != tuple(shape):
        raise _AnswerError(f"it must return the shape {tuple(shape)}, but returned {tuple(values.shape)}.")
    return values


def _same(found: float | Tensor, expected: float | Tensor) -> bool:
    a, b = torch.as_tensor(found, dtype=torch.float64), torch.as_tensor(expected, dtype=torch.float64)
    return bool(((a - b).abs() <= CLOSE * b.abs().clamp_min(1e-9)).all())


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


TWO = (0.0, 1.0), (1.0, 3.0)  # weights, and their h
COUNTS = (11, 6, 4, 2, 1)


def _best_value(answer: object) -> str | None:
    found = _number(answer)
    w, h = (np.array(x) for x in TWO)
    if _same(found, float(h @ w / h.sum())):
        return None
    if _same(found, float(w.mean())):
        return "that is best where both errors cost the same: what does h say of them?"
    if not w.min() <= found <= w.max():
        return "it lies outside of the weights: the nearer end would be better for both."
    if _same(found, float((w / h).sum() / (1 / h).sum())):
        return "that is nearer to the weight whose error costs less."
    return "the derivative of ½Σh(w − c)² by c is not zero there."


def _predicted(answer: object) -> str | None:
    h, delta = torch.rand(7, 5, generator=_generator()), torch.randn(7, 5, generator=_generator())
    found, right = _number(_call(answer, h, delta)), float(0.5 * (h * delta**2).sum())
    if _same(found, right):
        return None
    if _same(found, 2 * right):
        return "it is twice of what it should be: look at the second term of Taylor's series."
    if _same(found, right / h.numel()) or _same(found, 2 * right / h.numel()):
        return "that is a mean over weights, but the loss of all errors together is asked for."
    if _same(found, float(0.5 * (h * delta).sum())) or _same(found, float((h * delta).sum())):
        return "errors of opposite signs cancel in it, but each costs something near a minimum."
    if _same(found, float(0.5 * (delta**2).sum())):
        return "it does not depend on h."
    return "on random h and δ it is not what a second-order expansion predicts."


def _softmax_diagonal(answer: object) -> str | None:
    x = torch.randn(6, 4, generator=_generator(), dtype=torch.float64)
    weight = torch.randn(3, 4, generator=_generator(), dtype=torch.float64)
    target = torch.tensor([0, 1, 2, 2, 1, 0])

    def loss(w: Tensor) -> Tensor:
        return functional.cross_entropy(x @ w.T, target)

    hessian = torch.autograd.functional.hessian(loss, weight).reshape(12, 12)
    right = hessian.diagonal().reshape(3, 4)
    p = (x @ weight.T).softmax(1)
    found = _tensor(_call(answer, x, p), (3, 4))
    if _same(found, right):
        return None
    if _same(found, len(x) * right):
        return "that is the sum over samples, but the loss is their mean."
    if _same(found, (p.T @ x**2) / len(x)):
        return "p is not the second derivative of the log-sum-exp: what is taken off it?"
    if _same(found, ((p * (1 - p)).T @ x) / len(x)):
        return "the chain rule brings the input in twice, once for each derivative."
    if (found < 0).any():
        return "entries are negative, but this loss is convex in w."
    return "it is not the diagonal of what autograd finds for the cross-entropy of a linear layer."


def _fixed_ratio(answer: object) -> str | None:
    cases = ((1000, 8, 32), (431_080, 32, 32), (5000, 5, 16), (64, 1, 32))
    for n, k, bits in cases:
        counts = np.full(k, n // k, np.int64)
        counts[0] += n - counts.sum()
        right = n * bits / code_ledger(counts, lengths_for(counts, "fixed"), "fixed", bits).total
        found = _number(_call(answer, n, k, bits))
        if _same(found, right):
            continue
        case = f"for N = {n:,}, k = {k}, b = {bits}"
        if k & (k - 1) and _same(found, n * bits / (n * np.log2(k) + k * bits)):
            return f"{case}: a codeword has a whole number of bits."
        if k > 1 and _same(found, n * bits / (n * np.ceil(np.log2(k)))):
            return f"{case}: whoever reads indices needs the codebook, too."
        if found < 1 < right:
            return f"{case} it is below 1: bits before over bits after."
        return f"{case} it is off by a factor of {found / right:.3g}."
    return None


def _entropy(answer: object) -> str | None:
    for counts in ((1, 1), COUNTS, (5, 0, 3), (9,)):
        found, right = _number(_call(answer, list(counts))), float(entropy(np.array(counts)))
        if np.isnan(found):
            return f"for the counts {counts} it is not a number: 0·log 0 counts as 0."
        if abs(found - right) <= CLOSE:
            continue
        if abs(found - right * np.log(2)) <= CLOSE:
            return "that is in nats: a bit is a logarithm to base 2."
        if abs(found + right) <= CLOSE:
            return "it has the wrong sign: a code cannot take less than no bits."
        if abs(found - right * sum(counts)) <= CLOSE:
            return "that is for all of them together: bits a symbol are asked for."
        return f"for the counts {counts} it is {'more' if found > right else 'less'} than it should be."
    return None


def _huffman(answer: object) -> str | None:
    try:
        lengths = np.array([int(x) for x in answer])  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise _AnswerError("a list of whole numbers is required, a length for each count.") from None
    if len(lengths) != len(COUNTS):
        return f"{len(COUNTS)} lengths are required, but {len(lengths)} came."
    if (lengths < 1).any():
        return "each codeword has a bit at least."
    kraft = float((2.0**-lengths).sum())
    if kraft > 1:
        return f"Σ2^−ℓ = {kraft:g} is more than 1: no code without separators has these lengths."
    counts = np.array(COUNTS)
    if counts @ lengths > counts @ codeword_lengths(counts):
        more = "" if kraft == 1 else f" Σ2^−ℓ = {kraft:g} leaves room."
        return f"there is a code, but one that takes fewer bits than {counts @ lengths} exists.{more}"
    return None


def _choice(answer: object) -> str | None:
    w = torch.randn(200, generator=_generator(), dtype=torch.float64)
    h = torch.rand(200, generator=_generator(), dtype=torch.float64) + 0.1
    c = torch.tensor([-1.2, -0.1, 0.2, 1.0], dtype=torch.float64)
    length = torch.tensor([3.0, 1.0, 2.0, 3.0], dtype=torch.float64)
    lmbda, squares = 0.05, (w[:, None] - c) ** 2

    def best(cost: Tensor) -> Tensor:
        return cost.argmin(1).double()

    found = _tensor(_call(answer, w, h, c, length, lmbda), (200,))
    if torch.equal(found, best(0.5 * h[:, None] * squares + lmbda * length)):
        return None
    if torch.equal(found, best(squares)):
        return "that is the nearest value, at whatever length of its codeword."
    if torch.equal(found, best(0.5 * squares + lmbda * length)):
        return "weights with a small h may go further for a short codeword: h is not in it."
    if torch.equal(found, best(h[:, None] * squares + lmbda * length)):
        return "a loss without the ½ makes bits count half of what λ says."
    return "some weights go to a value that does not minimize ½h(w − c)² + λℓ."


EXERCISES = {
    "03.1": Exercise(
        "Two weights w = (0, 1) with sensitivities h = (1, 3) share one value c. Which c costs least? (a number)",
        ("½Σh(w − c)² is a parabola in c: where is its derivative zero?", "A mean, but not of equals."),
        _best_value,
    ),
    "03.2": Exercise(
        "Write predicted(h, delta): the loss increase that the Hessian diagonal predicts, for tensors of one shape.",
        (
            "Taylor's series to the second order, at a point where the gradient is zero.",
            "Off-diagonal terms are left out.",
        ),
        _predicted,
    ),
    "03.3": Exercise(
        "Write diagonal(x, p): the Hessian diagonal (C, d) of the mean cross-entropy of logits x·Wᵀ, from inputs x "
        "(n, d) and probabilities p (n, C).",
        (
            "By logits the Hessian of a sample is diag(p) − ppᵀ: what is on its diagonal?",
            "A logit is linear in the weight, with the input as the factor.",
        ),
        _softmax_diagonal,
    ),
    "04.1": Exercise(
        "Write ratio(n, k, b): the compression ratio of n weights of b bits, quantized to k values with a fixed-length "
        "code.",
        ("Bits before: n·b. Afterwards there are indices and a codebook.", "An index of k takes ⌈log₂k⌉ bits."),
        _fixed_ratio,
    ),
    "04.2": Exercise(
        "Write entropy(counts): bits a symbol that no code can go below, from a list of counts.",
        ("Shares first; then −Σp·log₂p.", "A count may be zero."),
        _entropy,
    ),
    "04.3": Exercise(
        f"Which codeword lengths does Huffman's code have for the counts {COUNTS}? (a list)",
        ("Join the two least again and again.", "What is joined deepens by a bit each time."),
        _huffman,
    ),
    "04.4": Exercise(
        "Write choose(w, h, c, length, lmbda): the index of the value (n) that each weight goes to in ECSQ, for w (n), "
        "h (n), values c (k) and codeword lengths (k).",
        ("Each weight minimizes loss plus λ times its bits.", "½h(w − c)² + λℓ, over all values."),
        _choice,
    ),
}
