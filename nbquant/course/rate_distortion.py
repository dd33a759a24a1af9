"""Exercises of notebook 04: from k-means to rate-distortion."""

import numpy as np
import torch
from torch import Tensor

from nbquant.coding.entropy import entropy
from nbquant.coding.huffman import codeword_lengths
from nbquant.course.answers import CLOSE, AnswerError, call, number, same, several, shown, tensor
from nbquant.course.exercise import Exercise, generator
from nbquant.quantization.rate import code_ledger, lengths_for

COUNTS = (11, 6, 4, 2, 1)
MOST_LENGTHS = 20  # entries of a list that are counted


def _fixed_ratio(answer: object) -> str | None:
    cases = ((1000, 8, 32), (431_080, 32, 32), (5000, 5, 16), (64, 1, 32))
    for n, k, bits in cases:
        counts = np.full(k, n // k, np.int64)
        counts[0] += n - counts.sum()
        right = n * bits / code_ledger(counts, lengths_for(counts, "fixed"), "fixed", bits).total
        found = number(call(answer, n, k, bits))
        if same(found, right):
            continue
        case = f"for N = {n:,}, k = {k}, b = {bits}"
        if k & (k - 1) and same(found, n * bits / (n * np.log2(k) + k * bits)):
            return f"{case}: a codeword has a whole number of bits."
        if k > 1 and same(found, n * bits / (n * np.ceil(np.log2(k)))):
            return f"{case}: the decoder needs the codebook too."
        if found < 1 < right:
            return f"{case} it is below 1: a compression ratio is bits before over bits after."
        return f"{case} it is off by a factor of {found / right:.3g}."
    return None


def _entropy(answer: object) -> str | None:
    for counts in ((1, 1), COUNTS, (5, 0, 3), (9,)):
        found, right = number(call(answer, list(counts)), finite=False), float(entropy(np.array(counts)))
        if np.isnan(found):
            return f"for the counts {counts} it is not a number: 0·log 0 counts as 0."
        if abs(found - right) <= CLOSE:
            continue
        if abs(found - right * np.log(2)) <= CLOSE:
            return "that is in nats: bits use the logarithm to base 2."
        if abs(found + right) <= CLOSE:
            return "it has the wrong sign: an entropy is never negative."
        if abs(found - right * sum(counts)) <= CLOSE:
            return "that is the total: bits per symbol are required."
        return f"for the counts {counts} it is {'more' if found > right else 'less'} than it should be."
    return None


def _huffman(answer: object) -> str | None:
    entries = several(answer, MOST_LENGTHS)
    if not entries:
        raise AnswerError(f"a list of whole numbers is required, one length for each count, but {shown(answer)} came.")
    if len(entries) != len(COUNTS):
        came = f"{len(entries)}" if len(entries) <= MOST_LENGTHS else "many more"
        return f"{len(COUNTS)} lengths are required, but {came} came."
    lengths = np.array([number(entry) for entry in entries])
    if (lengths % 1).any():
        return f"a codeword has a whole number of bits, but {shown(answer)} came."
    if (lengths < 1).any():
        return "each codeword has at least one bit."
    kraft = float((2.0**-lengths).sum())
    if kraft > 1:
        return f"Σ2^−ℓ = {kraft:g} is more than 1: no prefix code has these lengths (Kraft's inequality)."
    counts = np.array(COUNTS)
    if counts @ lengths > counts @ codeword_lengths(counts):
        more = "" if kraft == 1 else f" Σ2^−ℓ = {kraft:g} leaves room for shorter codewords."
        return (
            f"a code with these lengths exists, but it takes {counts @ lengths:g} bits, and fewer bits suffice.{more}"
        )
    return None


def _choice(answer: object) -> str | None:
    w = torch.randn(200, generator=generator(), dtype=torch.float64)
    h = torch.rand(200, generator=generator(), dtype=torch.float64) + 0.1
    c = torch.tensor([-1.2, -0.1, 0.2, 1.0], dtype=torch.float64)
    length = torch.tensor([3.0, 1.0, 2.0, 3.0], dtype=torch.float64)
    lmbda, squares = 0.05, (w[:, None] - c) ** 2

    def best(cost: Tensor) -> Tensor:
        return cost.argmin(1).double()

    found = tensor(call(answer, w, h, c, length, lmbda), (200,))
    if torch.equal(found, best(0.5 * h[:, None] * squares + lmbda * length)):
        return None
    if torch.equal(found, best(squares)):
        return "that is the nearest value, but the codeword lengths count too."
    if torch.equal(found, best(0.5 * squares + lmbda * length)):
        return "h is not used: a weight with a small h may take a farther value if its codeword is shorter."
    if torch.equal(found, best(h[:, None] * squares + lmbda * length)):
        return "the loss has a factor ½: without the ½ the rate has half the influence that λ gives it."
    return "some weights get a value that does not minimize ½h(w − c)² + λℓ."


EXERCISES = {
    "04.1": Exercise(
        "Write ratio(n, k, b): the compression ratio of n weights of b bits, quantized to k values with a fixed-length "
        "code.",
        (
            "The weights take n·b bits before quantization.",
            "Afterwards the file has n indices and a codebook of k values.",
            "An index takes ⌈log₂k⌉ bits, which is math.ceil(math.log2(k)), and each value of the codebook takes b "
            "bits.",
        ),
        _fixed_ratio,
    ),
    "04.2": Exercise(
        "Write entropy(counts): the least number of bits per symbol of any code, from a list of counts.",
        (
            "Divide by the sum of counts to get probabilities.",
            "Then compute −Σp·log₂p with the logarithm to base 2.",
            "A count may be zero: leave it out of the sum, since p·log₂p tends to zero, but math.log2(0) raises an "
            "error.",
        ),
        _entropy,
    ),
    "04.3": Exercise(
        f"Which codeword lengths does Huffman's code have for the counts {COUNTS}? (a list)",
        (
            "Merge the two least counts again and again.",
            "Each merge makes the codewords of its symbols one bit longer.",
            "The first merge joins 1 and 2 to 3, and the next joins that 3 and 4; a symbol's length is the number of "
            "merges that it takes part in.",
        ),
        _huffman,
    ),
    "04.4": Exercise(
        "Write choose(w, h, c, length, lmbda): the index (n) of the value that each weight gets in ECSQ, for w (n), "
        "h (n), values c (k) and codeword lengths (k).",
        (
            "Each weight minimizes its loss plus λ times its bits.",
            "The cost of weight i at value j is ½hᵢ(wᵢ − cⱼ)² + λℓⱼ.",
            "Build the matrix (n, k) of all costs by broadcasting with w[:, None] and h[:, None], and take argmin "
            "along dimension 1.",
        ),
        _choice,
    ),
}
