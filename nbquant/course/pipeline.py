"""Exercises of notebook 02: the pipeline."""

import math

import torch

from nbquant.course.answers import call, number, same, tensor
from nbquant.course.exercise import Exercise, accuracy_of, bundled, generator
from nbquant.course.files import examine_file

PRUNED = "lenet5-fashion-pruned"
ORIGINAL_BYTES = 4 * 431_080
RATIO = 48
LOST = 0.005


def _positions(answer: object) -> str | None:
    model, _ = bundled(PRUNED)
    q = sum(int(p.count_nonzero()) for p in model.parameters()) / sum(p.numel() for p in model.parameters())
    of_all = -q * math.log2(q) - (1 - q) * math.log2(1 - q)
    found = number(answer)
    if abs(found - of_all / q) < 5e-4:
        return None
    if abs(found - of_all) < 5e-4:
        return "that is the number of bits per weight, over all weights: bits per kept weight are required."
    if abs(found + math.log2(q)) < 5e-4:
        return "−log₂q counts only the kept weights: the decoder must also know where the pruned ones are."
    if abs(found - of_all / q * math.log(2)) < 5e-4:
        return "that is in nats: bits use the logarithm to base 2."
    return "it is not H₂(q)/q for the q of this network."


def _gradient(answer: object) -> str | None:
    g = torch.randn(50, generator=generator(), dtype=torch.float64)
    index = torch.randint(0, 4, (50,), generator=generator())
    k = 5  # one value is unused
    right = torch.zeros(k, dtype=torch.float64).index_add_(0, index, g)
    found = tensor(call(answer, g, index, k), (k,), finite=False)
    counts = torch.bincount(index, minlength=k)
    if same(found, right):
        return None
    if found.isnan().any() or found.isinf().any():
        return "an unused value has no effect on the loss: its derivative is 0, but yours divides by zero."
    if same(found, right / counts.clamp_min(1)):
        return (
            "that is the mean over the weights of a value: the chain rule does something else with their derivatives."
        )
    return "it differs from the result of autograd for a loss of c[index]."


EXERCISES = {
    "02.1": Exercise(
        "A share q of the weights is kept, and which ones is purely random. Then positions take at least H₂(q)/q bits "
        "per kept weight, with H₂(q) = −q·log₂q − (1 − q)·log₂(1 − q). How many bits is that for the bundled pruned "
        "LeNet-5? (a number)",
        (
            "q is the number of kept weights over the number of all 431,080 weights.",
            "Count kept weights with p.count_nonzero() over all model.parameters(); the notebook has them in `kept`.",
            "Compute H₂(q) with math.log2, which is the number of bits per weight of all, and divide it by q at the "
            "end.",
        ),
        _positions,
    ),
    "02.2": Exercise(
        f"Make a file of the bundled pruned LeNet-5 that has at most 1/{RATIO} of its float32 bytes, header included, "
        "and loses at most half a point of accuracy on all test images. (the path of the .nbq file)",
        (
            "nq.fit, perhaps nq.finetune, then nq.save(quantized, path, model).",
            "The file also has a header, so the ratio passed to nq.fit must be a little higher than the required one.",
            'The code coding="context" needs neither tables nor positions, so it leaves more bits for the values: try '
            'method="ecsq" with it at ratio=50.',
        ),
        examine_file(PRUNED, ORIGINAL_BYTES // RATIO, lambda: accuracy_of(PRUNED) - LOST),
    ),
    "02.3": Exercise(
        "Write gradient(g, index, k): the derivatives (k) of the loss with respect to the shared values c, from its "
        "derivatives g (n) with respect to the weights and the index (n) of each weight's value, where w = c[index].",
        (
            "By the chain rule, a value acts on the loss through all its weights.",
            "The derivative with respect to c[j] is the sum of g over all weights with index j.",
            "Start with torch.zeros(k, dtype=g.dtype) and let torch.Tensor.index_add_ add each g at its index.",
        ),
        _gradient,
    ),
}
