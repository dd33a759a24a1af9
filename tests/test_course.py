"""Right answers are accepted, wrong ones refused with a reason that does not give the right one away."""

import atexit
import json
import math
import runpy
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import nbquant as nq
from nbquant.course import EXERCISES, check, hint, question
from nbquant.course.rate_distortion import COUNTS

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(tempfile.mkdtemp(prefix="nbquant-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.py"))


def raises(*_):
    raise KeyError("mine")


def fixed(n, k, b):
    return n * b / (n * math.ceil(math.log2(k)) + k * b)


def entropy(counts):
    p = np.array([n for n in counts if n]) / sum(counts)
    return float(-(p * np.log2(p)).sum())


def spacing(x, bits):
    return 2.0 ** (math.floor(math.log2(x)) - bits)


def affine(low, high, bits):
    scale = (max(high, 0) - min(low, 0)) / (2**bits - 1)
    return scale, round(-min(low, 0) / scale)


def mx_error(block, exponent):
    levels = 2.0**exponent * torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    return float((block.abs()[:, None] - levels).square().amin(1).sum())


def best_exponent(block):
    return min(range(-12, 12), key=lambda exponent: mx_error(block, exponent))


def straight_update(w, target, lr, step):
    return w - lr * (round(w / step) * step - target)


def round_pair(w, moments, step):
    first = (w[0] / step).round() * step
    target = w[1] + (w[0] - first) * moments[0, 1] / moments[1, 1]
    return torch.stack([first, (target / step).round() * step])


@cache
def network(name):
    return nq.zoo.load(name)[0]


@cache
def written(name="lenet5-fashion-pruned", levels=24, coding="huffman"):
    """A file of a bundled network, as an answer."""
    model = network(name)
    path = FOLDER / f"{name}-{levels}-{coding}.nbq"
    nq.save(
        nq.fit(nq.select(model), "kmeans", levels=levels, coding=coding, progress=False), path, model, progress=False
    )
    return path


@cache
def of_another_network():
    model = network("resnet8-fashion")
    path = FOLDER / "resnet8.nbq"
    nq.save(nq.fit(nq.select(model), "uniform", ratio=8, progress=False), path, model, progress=False)
    return path


@cache
def damaged():
    path = FOLDER / "damaged.nbq"
    content = bytearray(written().read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path


@cache
def pruned_by_grid():
    """What exercise 01.3 asks about."""
    return nq.fit(nq.select(network("lenet5-fashion-pruned")), "uniform", ratio=45, progress=False)


def ratio_with(**shares):
    """Compression ratio if some parts of that ledger shrink to shares of themselves."""
    q = pruned_by_grid()
    return q.source_bits / sum(bits * shares.get(part, 1) for part, bits in q.ledger.items())


@cache
def fitted(layers, ratio):
    return nq.fit(nq.select(network("lenet5-fashion"), layers=layers), "uniform", ratio=ratio, progress=False)


class First(nn.Module):
    def __init__(self, inner, pick=lambda outputs: outputs[0]):
        super().__init__()
        self.inner, self.pick = inner, pick

    def forward(self, x):
        return self.pick(self.inner(x))


def mean_by_member(g, index, k):
    return torch.zeros(k, dtype=g.dtype).index_add_(0, index, g) / torch.bincount(index, minlength=k)


def positions(base=2.0, of_all=False):
    model = network("lenet5-fashion-pruned")
    kept = sum(int(p.count_nonzero()) for p in model.parameters())
    q = kept / sum(p.numel() for p in model.parameters())
    bits = -q * math.log(q, base) - (1 - q) * math.log(1 - q, base)
    return bits if of_all else bits / q


def cluster_cost(parts):
    """The loss of a cluster by its definition, over weights that have the given sums."""
    h, hw, hww = (sum(column) for column in zip(*parts, strict=True))
    mean, spread = hw / h, math.sqrt(hww / h - (hw / h) ** 2)
    return 0.5 * sum(h / 2 * (w - mean) ** 2 for w in (mean - spread, mean + spread))


RIGHT = {
    "01.1": [13, np.int64(13)],
    "01.2": [lambda: fitted("fc1", 20)],
    "01.3": [lambda: ratio_with(payload=0.5), lambda: round(ratio_with(payload=0.5), 1)],
    "02.1": [positions],
    "02.2": [],
    "02.3": [lambda g, i, k: torch.stack([g[i == j].sum() for j in range(k)])],
    "03.1": [0.75, torch.tensor(0.75), np.float32(0.75)],
    "03.2": [lambda h, d: 0.5 * (h * d * d).sum(), lambda h, d: float(h.flatten() @ d.flatten() ** 2) / 2],
    "03.3": [lambda x, p: (p * (1 - p)).T @ x**2 / len(x)],
    "04.1": [fixed],
    "04.2": [entropy],
    "04.3": [[1, 2, 3, 4, 4], (1, 2, 3, 4, 4), torch.tensor([1, 2, 3, 4, 4])],
    "04.4": [lambda w, h, c, ell, lmbda: (0.5 * h[:, None] * (w[:, None] - c) ** 2 + lmbda * ell).argmin(1)],
    "05.1": [(1.5, 0), [1.5, 0.0], torch.tensor([1.5, 0.0])],
    "05.2": [lambda d, g: 0.5 * d @ g @ d, lambda d, g: (g * d[:, None] * d).sum() / 2],
    "05.3": [-0.1],
    "05.4": [],
    "06.1": [First],
    "06.2": [lambda batches: [(b["image"], b["label"]) for b in batches]],
    "06.3": ["*conv*", ["conv1", "layers.*.conv*"]],
    "07.1": [lambda parts: sum(m for _, m in parts) / sum(h for h, _ in parts)],
    "07.2": [cluster_cost],
    "08.1": [4.5],
    "08.2": [lambda choices, lmbda: min(range(len(choices)), key=lambda i: choices[i][1] + lmbda * choices[i][0])],
    "09.1": [spacing, lambda x, bits: float(np.spacing(np.float64(x))) * 2.0 ** (52 - bits)],
    "09.2": [affine],
    "09.3": [(256, 4), torch.tensor([256.0, 4.0])],
    "10.1": [best_exponent, lambda block: min(range(-9, 5), key=lambda e: mx_error(block, e))],
    "10.2": [126, 126.0],
    "10.3": [(1, 0, 1, 1), [1.0, 0.0, 1.0, 1.0]],
    "11.1": [round_pair, lambda w, G, step: round_pair(w, G, step).tolist()],
    "11.2": [(0.25, 1, 4), torch.tensor([0.25, 1.0, 4.0])],
    "11.3": [1, 1.0],
    "12.1": [straight_update, lambda *given: torch.tensor(straight_update(*given))],
    "12.2": [(8, math.inf), [8.0, float("inf")]],
    "12.3": [0.3, torch.tensor(0.3)],
    "13.1": [
        lambda a, b: (b - a).std() / len(a) ** 0.5,
        lambda a, b: float(np.std((a - b).numpy()) / np.sqrt(len(a))),
        lambda a, b: ((a.var() + b.var() - 2 * torch.cov(torch.stack([a, b]))[0, 1]) / len(a)).sqrt(),
    ],
    "13.2": [9000, 9000.0],
    "13.3": [1 - 0.977**20, 0.372],
}

WRONG = {
    "01.1": [
        (14, "14 levels take 3.0"),
        (8, "one more would still fit"),
        (0, "from 1 to"),
        (13.0, "a whole number is required"),
        (True, "a number is required, but True came"),
    ],
    "01.2": [
        (lambda: fitted(None, 20), "only fc1 must be quantized"),
        (lambda: fitted("fc1", 12), "its ratio is 12"),
        (lambda: fitted("fc1", 28), "points of accuracy"),
        (20, "the result of nq.fit is required"),
    ],
    "01.3": [
        (ratio_with, "before the payload is halved"),
        (lambda: 2 * ratio_with(), "every part of the ledger were halved"),
        (lambda: ratio_with(position_payload=0.5), "positions are halved"),
        (lambda: pruned_by_grid().source_bits / (pruned_by_grid().ledger["payload"] / 2), "other parts"),
        (lambda: ratio_with(payload=0), "half of it remains"),
        (7, "sum of all parts"),
        ("payload", "a number is required"),
    ],
    "02.1": [
        (lambda: positions(of_all=True), "per weight, over all weights"),
        (lambda: positions(math.e), "nats"),
        (3.4, "not H₂(q)/q"),
        ("many", "a number is required"),
    ],
    "02.2": [
        (lambda: written(levels=200), "bytes, but at most 35,923 are allowed"),
        (lambda: written(levels=2, coding="context"), "on all test images"),
        (of_another_network, "cannot be used"),
        (damaged, "cannot be used"),
        (FOLDER / "absent.nbq", "cannot be used"),
        (48, "the path of a .nbq file is required"),
    ],
    "02.3": [
        (mean_by_member, "an unused value"),
        (lambda g, i, k: mean_by_member(g, i, k).nan_to_num(), "the mean over the weights"),
        (lambda g, i, k: torch.zeros(k), "autograd"),
        (lambda g, i, k: g, "the shape"),
    ],
    "03.1": [
        (0.5, "both errors cost the same"),
        (0.25, "whose error costs less"),
        (1.5, "outside the range of the weights"),
        (0.7, "derivative"),
        ("three quarters", "a number is required"),
    ],
    "03.2": [
        (lambda h, d: (h * d * d).sum(), "twice"),
        (lambda h, d: 0.5 * (h * d * d).mean(), "a mean over weights"),
        (lambda h, d: 0.5 * (h * d).sum(), "opposite signs"),
        (lambda h, d: 0.5 * (d * d).sum(), "does not depend on h"),
        (lambda h, d: 3.0, "differs from the second-order"),
        (lambda h, d: h * d, "a number is required"),
        (raises, "raised KeyError: 'mine'"),
        (1.0, "a function is required"),
    ],
    "03.3": [
        (lambda x, p: (p * (1 - p)).T @ x**2, "the sum over samples"),
        (lambda x, p: p.T @ x**2 / len(x), "what is subtracted"),
        (lambda x, p: (p * (1 - p)).T @ x / len(x), "enters twice"),
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
        (lambda counts: entropy(counts) * sum(counts), "that is the total"),
        (lambda counts: 0.0, "less than"),
        (lambda counts: 9.0, "more than"),
        (lambda counts: entropy(counts) if all(counts) else float("nan"), "0·log 0"),
    ],
    "04.3": [
        ([1, 2, 3, 3, 3], "more than 1"),
        ([3, 3, 3, 3, 3], "leaves room"),
        ([2, 2, 2, 3, 3], "fewer bits"),
        ([1, 2, 3], "5 lengths are required"),
        ([0, 2, 3, 4, 4], "at least one bit"),
        (3, "a list of whole numbers"),
        ([1, 2, 3, 4, 4.5], "a whole number of bits"),
        ([1, 2, 3, 4, 1e300], "leaves room"),
    ],
    "04.4": [
        (lambda w, h, c, ell, lmbda: ((w[:, None] - c) ** 2).argmin(1), "nearest value"),
        (lambda w, h, c, ell, lmbda: (0.5 * (w[:, None] - c) ** 2 + lmbda * ell).argmin(1), "h is not used"),
        (lambda w, h, c, ell, lmbda: (h[:, None] * (w[:, None] - c) ** 2 + lmbda * ell).argmin(1), "without the ½"),
        (lambda w, h, c, ell, lmbda: torch.zeros(200), "some weights"),
        (lambda w, h, c, ell, lmbda: c, "the shape"),
    ],
    "05.1": [
        ((1.58, 0), "the second is right"),
        ((1.5, 0.2), "the first is right"),
        ((1, 1), "neither is right"),
        (1.5, "2 numbers are required: bits of the arithmetic code"),
        (("a", "b"), "a number is required"),
    ],
    "05.2": [
        (lambda d, g: d @ g @ d, "twice"),
        (lambda d, g: 0.5 * (g.diagonal() * d**2).sum(), "the diagonal alone"),
        (lambda d, g: (g @ d).sum(), "mean square"),
        (lambda d, g: g @ d, "a number is required"),
    ],
    "05.3": [(0.1, "add up"), (0, "uncorrelated"), (-0.2, "always equal"), (-0.3, "derivative")],
    "05.4": [
        (lambda: written("lenet5-fashion", 16), "bytes, but at most 40,000 are allowed"),
        (lambda: written("lenet5-fashion", 1, "context"), "on all test images"),
        ("absent.nbq", "cannot be used"),
    ],
    "06.1": [
        (lambda network: network, "is a tuple"),
        (lambda network: First(network, lambda outputs: outputs[1]), "of the first task"),
        (lambda network: lambda x: network(x)[0], "must be a torch.nn.Module"),
        (lambda network: First(lambda x: network(x)), "but it has 0"),
        (First(nn.Identity()), "raised"),
        (3, "a function is required"),
    ],
    "06.2": [
        (lambda batches: ((b["image"], b["label"]) for b in batches), "exhausted"),
        (lambda batches: batches, "must yield pairs"),
        (lambda batches: [(b["label"], b["image"]) for b in batches], "in that order"),
        (lambda batches: [], "but 0 come out"),
        (lambda batches: 3, "raised TypeError"),
    ],
    "06.3": [
        ("*", "to no convolution"),
        ("conv1", "are missing"),
        ("convolution", "nq.select refuses it"),
        (3, "a pattern or a list of patterns is required, but 3 came"),
        (["*conv*", 3], "each pattern must be text, but 3 came"),
        (range(10**9), "a list of patterns is required"),
    ],
    "07.1": [
        (lambda parts: sum(m / h for h, m in parts) / len(parts), "the ranks' own values"),
        (lambda parts: sum(h for h, _ in parts) / sum(m for _, m in parts), "upside down"),
        (lambda parts: sum(m for _, m in parts), "alone"),
        (lambda parts: 0.0, "one process"),
    ],
    "07.2": [
        (lambda parts: 2 * cluster_cost(parts), "twice"),
        (lambda parts: sum(cluster_cost([part]) for part in parts), "a value of its own"),
        (lambda parts: 0.5 * sum(q for *_, q in parts), "the value 0"),
        (lambda parts: sum(q for *_, q in parts) - cluster_cost(parts), "a sign is wrong"),
        (lambda parts: 1.0, "best value c of all weights"),
        (5.0, "a function is required"),
    ],
    "08.1": [
        (4, "the codes alone"),
        (5, "not 32"),
        (20, "shared"),
        (144, "count the bits"),
    ],
    "08.2": [
        (lambda choices, lmbda: min(range(len(choices)), key=lambda i: choices[i][1]), "the bits count too"),
        (lambda choices, lmbda: min(range(len(choices)), key=lambda i: choices[i][0]), "the loss counts too"),
        (lambda choices, lmbda: min(loss + lmbda * bits for bits, loss in choices), "the index of the format"),
        (lambda choices, lmbda: 7, "least loss"),
    ],
    "09.1": [
        (lambda x, bits: 2.0**-bits, "the distance near 1"),
        (lambda x, bits: x * 2.0**-bits, "until the exponent changes"),
        (lambda x, bits: spacing(x, bits) / 2, "largest rounding error"),
        (lambda x, bits: spacing(x, bits + 2), "off by a factor of 0.25"),
        (0.1, "a function is required"),
    ],
    "09.2": [
        (lambda low, high, bits: ((high - low) / (2**bits - 1), affine(low, high, bits)[1]), "no code stands for zero"),
        (lambda low, high, bits: (4 / 16, 4), "count the steps between 16 levels"),
        (lambda low, high, bits: (2 * affine(low, high, bits)[0], 4), "off by a factor of 2"),
        (lambda low, high, bits: (affine(low, high, bits)[0], 3.75), "but it is a code"),
        (lambda low, high, bits: (affine(low, high, bits)[0], -affine(low, high, bits)[1]), "wrong sign"),
        (lambda low, high, bits: (affine(low, high, bits)[0], 0), "the code 0 stands for"),
        (lambda low, high, bits: 0.1, "2 numbers are required: scale, zero point"),
    ],
    "09.3": [
        ((256, 8), "the factor is right"),
        ((16, 4), "a mean of squares"),
        ((4, 4), "the bits are right"),
        ((2, 1), "neither is right"),
        (256, "2 numbers are required"),
        ("ab", "2 numbers are required"),
        (("a", 4), "a number is required"),
    ],
    "10.1": [
        (lambda block: math.floor(math.log2(block.abs().max())) - 2, "there, the largest weight saturates"),
        (lambda block: math.ceil(math.log2(block.abs().max() / 6)), "rounded more coarsely"),
        (lambda block: best_exponent(block) - 1, "times the least"),
        (lambda block: 2.0 ** best_exponent(block), "must be an integer"),
        (lambda block: 10**6, "times the least"),
        (lambda block: float("nan"), "a finite number is required, but nan came"),
    ],
    "10.2": [
        (63, "the integer is still 1"),
        (64, "the integer is still 1"),
        (31.5, "the integer is 2"),
        (15, "but the scales of groups have more"),
        (100, "the integer before rounding is 0.63"),
        (0, "the integer before rounding is inf"),
    ],
    "10.3": [
        ((1, 1, 1, 1), "in (a) is not right: how many weights take the new levels"),
        ((1, 0, 1, 0), "in (b) is not right"),
        ((0, 0, 1, 1), "number of levels"),
        ((1, 0, 1), "4 numbers are required: fixed code in (a)"),
    ],
    "11.1": [
        (lambda w, G, step: (w / step).round() * step, "each weight is rounded by itself"),
        (lambda w, G, step: round_pair(w, G * torch.tensor([[1, -1], [-1, 1]]), step), "look at the sign"),
        (lambda w, G, step: round_pair(w, torch.stack([G[0], G[0, [1, 0]]]), step), "which input does it act on"),
        (lambda w, G, step: round_pair(w, torch.ones(2, 2), step), "always equal"),
        (lambda w, G, step: round_pair(w, G, step / 3), "multiples of the step"),
        (lambda w, G, step: round_pair(w.flip(0), G.flip(0, 1), step).flip(0), "nothing comes before the first"),
        (lambda w, G, step: round_pair(w, G, step) + torch.tensor([0, 9 * step]), "does not minimise"),
        (lambda w, G, step: w[0], "the shape (2,)"),
    ],
    "11.2": [
        ((0.5, 1, 4), "its mean square"),
        ((1, 1, 4), "the first is not right"),
        ((0.25, 0.25, 4), "the second is not right"),
        ((0.25, 1, 1), "the third is not right"),
        (0.25, "3 numbers are required"),
        (round_pair, "pass the numbers, not a function"),
        ({0.25, 1, 4}, "3 numbers are required"),
    ],
    "11.3": [
        (0.125, "the sum of squares would be 1 after"),
        (8, "before the rotation"),
        (-1, "a magnitude"),
        (2, "the sum of squares would be 256"),
        (1e300, "no weight can be larger"),
    ],
    "12.1": [
        (lambda w, target, lr, step: w, "does not move"),
        (lambda w, target, lr, step: w - lr * (w - target), "which weight does the network use"),
        (lambda w, t, lr, step: (q := round(w / step) * step) - lr * (q - t), "the rounded weight is updated"),
        (lambda w, target, lr, step: 2 * w - straight_update(w, target, lr, step), "uphill"),
        (lambda w, t, lr, step: w - lr * (round(w / step) * step - t) / step, "is 1, whatever the step"),
        (lambda w, target, lr, step: 7.0, "not one step"),
        (8, "a function is required"),
    ],
    "12.2": [
        ((8, 8), "what is left of an update"),
        ((7, math.inf), "still rounded down"),
        ((7.5, math.inf), "a whole number"),
        ((20, math.inf), "need not reach the level"),
        ((13, math.inf), "where is the threshold"),
        (8, "2 numbers are required"),
    ],
    "12.3": [
        (0, "does not stay below"),
        (0.5, "not equally long"),
        (0.7, "the share of level 0"),
        (30, "between 0 and 1"),
        (0.4, "must cancel"),
    ],
    "13.1": [
        (lambda a, b: ((a.var() + b.var()) / len(a)).sqrt(), "samples that are not shared"),
        (lambda a, b: (b - a).std(), "the spread of one sample"),
        (lambda a, b: (b - a).std() / len(a), "does not fall as fast"),
        (lambda a, b: (b - a).var() / len(a), "the square of the error"),
        (lambda a, b: a.mean() - b.mean(), "the difference itself"),
        (lambda a, b: 0.5, "off by a factor"),
        (lambda a, b: 100 * (b - a).std() / len(a) ** 0.5, "that is in points"),
        (lambda a, b: -0.5, "it is negative"),
        (lambda a, b: 0, "do not agree on all samples"),
        (lambda changes: changes.std(), "a function of 2 arguments is required, but yours has the arguments (changes)"),
        (0.01, "a function is required"),
    ],
    "13.2": [
        (3000, "in proportion to the samples"),
        (8000, "count the first 1,000"),
        (500, "one standard error only"),
        (5000, "by which factor"),
        ("many", "a number is required"),
    ],
    "13.3": [
        (0.46, "the expected number"),
        (0.628, "that none does"),
        (0.023, "one given variant"),
        (37.2, "between 0 and 1"),
        (0.5, "at least one"),
    ],
}

MADE = {"01.2", "01.3", "02.1", "02.2", "05.4"}
"""Exercises whose answers take time to make: they are made when they are needed."""


def made(number, answer):
    return answer() if callable(answer) and number in MADE else answer


def test_every_exercise_is_tried():
    """Right files take as long to make as solutions do: these are the solutions, which are checked below."""
    assert list(RIGHT) == list(WRONG) == list(EXERCISES)
    assert [number for number, answers in RIGHT.items() if not answers] == ["02.2", "05.4"]


def stub(*_): ...


# Where a function is required, the notebook gives a stub of it.
OF_FUNCTIONS = {number for number, answers in RIGHT.items() if callable(answers[0] if answers else None)} - MADE


@pytest.mark.parametrize("number", EXERCISES)
@pytest.mark.parametrize("answer", [None, ..., "", "  ", (None, None), []], ids=repr)
def test_no_answer_yet(number, answer):
    verdict = check(number, answer)
    assert not verdict
    assert repr(verdict) == f"○ {number}: not answered yet."


@pytest.mark.parametrize("number", sorted(OF_FUNCTIONS))
def test_stub_is_no_answer_yet(number):
    assert check(number, stub).said == "not answered yet."


@pytest.mark.parametrize(("number", "answer"), [(n, a) for n, answers in RIGHT.items() for a in answers])
def test_right_answers_are_accepted(number, answer):
    verdict = check(number, made(number, answer))
    assert verdict
    assert repr(verdict) == f"✓ {number}: right."


@pytest.mark.parametrize(("number", "answer", "said"), [(n, *a) for n, answers in WRONG.items() for a in answers])
def test_wrong_answers_are_refused_with_a_reason(number, answer, said):
    verdict = check(number, made(number, answer))
    assert not verdict
    assert said in verdict.said
    assert repr(verdict).startswith("✗")


class WithoutRepr:
    """An object of a student that raises whatever is asked of it."""

    def __repr__(self):
        raise RuntimeError("mine")

    def __iter__(self):
        raise RuntimeError("mine")

    __float__ = __iter__


ODD = {
    "huge": 10**400,
    "huge beyond repr": 10**5000,
    "nan": math.nan,
    "inf": -math.inf,
    "bool": True,
    "numpy bool": np.True_,
    "tensor of a bool": torch.tensor(True),
    "complex": 1j,
    "many numbers": range(10**9),  # as a list they would fill the memory
    "nested": [[10**400] * 3] * 4,
    "huge in a list": [10**400] * 5,
    "nan in a list": [math.nan] * 4,
    "set": {1, 2},
    "dict": {"a": 1},
    "bytes": b"ab",
    "text": "x" * 10**6,
    "without repr": WithoutRepr(),
}


@pytest.mark.parametrize("number", EXERCISES)
@pytest.mark.parametrize("answer", ODD.values(), ids=ODD)
def test_odd_answers_are_wrong_answers(number, answer):
    """The message is short, whatever came; so is that of a function that returns it."""
    answers = [answer]
    if number in OF_FUNCTIONS:
        answers.append(lambda *_: answer)
    for each in answers:
        verdict = check(number, each)
        assert not verdict
        assert 0 < len(verdict.said) < 300


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("30 %", "a number is required, but the text '30 %' came: write 30, without quotes."),
        ("9,000", "a number is required, but the text '9,000' came: write 9000, without quotes."),
        ("1,234,567.5", "a number is required, but the text '1,234,567.5' came: write 1234567.5, without quotes."),
        ("0,75", "a number is required, but the text '0,75' came: write 0.75, without quotes."),
        ("−3 bits", "a number is required, but the text '−3 bits' came: write -3, without quotes."),
        ("2 or 3", "a number is required, but the text '2 or 3' came."),
        ("1,2,3", "a number is required, but the text '1,2,3' came."),
        ((9, 0), "a number is required, but (9, 0) came: write one number, without a comma."),
        (math.sqrt, "a number is required, but <built-in function sqrt> came: pass the number, not a function."),
        (True, "a number is required, but True came."),
        (math.inf, "a finite number is required, but inf came."),
        (10**309, "a number with fewer than 309 digits is required, but 1" + 78 * "0" + "… came."),
    ],
    ids=lambda value: str(value)[:12],
)
def test_what_is_no_number_is_mended(answer, said):
    assert check("13.2", answer).said == said


def test_numbers_of_one_entry_are_read():
    assert check("03.1", np.array([0.75]))
    assert check("03.1", torch.tensor(0.75, requires_grad=True))
    assert check("03.1", " 0.75 ")


def exits(*_):
    raise SystemExit(3)


def interrupted(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("number", sorted(OF_FUNCTIONS))
def test_function_that_exits_is_a_wrong_answer(number):
    assert "raised SystemExit: 3" in check(number, exits).said


def test_exit_while_batches_are_read_is_a_wrong_answer():
    assert "for the first time raised SystemExit: 3" in check("06.2", lambda batches: map(exits, batches)).said


def test_interrupt_passes_through():
    with pytest.raises(KeyboardInterrupt):
        check("03.2", interrupted)


@pytest.mark.parametrize("number", sorted(OF_FUNCTIONS))
def test_function_with_other_arguments_is_refused_by_its_arguments(number):
    verdict = check(number, lambda a, b, c, d, e, f, g: 1.0)
    assert "required, but yours has the arguments (a, b, c, d, e, f, g)" in verdict.said


def test_long_errors_are_cut():
    def long(h, delta):
        raise ValueError("x" * 10**6)

    assert check("03.2", long).said.endswith("xxx…")


@pytest.mark.parametrize("which", ["1", None, 1.5, True, 0, [1], 10**5000, "x" * 10**6], ids=lambda v: str(type(v)))
def test_hints_are_asked_for_by_a_whole_number(which):
    with pytest.raises(ValueError, match=r"has hints 1 to 3, but .{1,80} was requested: pass a whole number"):
        hint("03.1", which)


@pytest.mark.parametrize("number", [3.1, None, ["03.1"], "x" * 10**6, 10**5000], ids=lambda v: str(type(v)))
def test_exercises_are_asked_for_by_number(number):
    with pytest.raises(ValueError, match=r"the number of an exercise is required, .* but .{1,90} came: did you mean"):
        check(number, 0)


@pytest.mark.parametrize("number", EXERCISES)
def test_hints(number):
    """There are three, each longer than the one before, and each a sentence of its own."""
    assert question(number)
    hints = [hint(number, which) for which in (1, 2, 3)]
    assert hint(number) == hints[0]
    assert len(set(hints)) == 3
    assert [len(one) for one in hints] == sorted(len(one) for one in hints)
    with pytest.raises(ValueError, match="hints 1 to 3, but 4"):
        hint(number, 4)


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
        text = "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])
        asked += [
            number for number in EXERCISES if f'nq.course.check("{number}"' in text and path.stem[:2] == number[:2]
        ]
    assert asked == list(EXERCISES)
    assert {path.stem[:2] for path in SOLUTIONS} == {number[:2] for number in EXERCISES}
