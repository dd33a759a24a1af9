"""Exercises of notebook 08: formats of others."""

from nbquant.course.answers import call, number, same
from nbquant.course.exercise import Exercise

BLOCK, CODE, SCALE = 32, 4, 16
CHOICES = (((4.5, 3.0), (5.5, 1.0), (8.5, 0.2)), ((8.5, 0.2), (4.5, 3.0), (5.5, 1.0)))
PRICES = (0.0, 0.5, 1.0, 10.0)


def _stored(answer: object) -> str | None:
    found = number(answer)
    if same(found, CODE + SCALE / BLOCK):
        return None
    if same(found, CODE):
        return "that counts the codes alone: the scale is stored too."
    if same(found, CODE + 32 / BLOCK):
        return "the scale has 16 bits, not 32."
    if same(found, CODE + SCALE):
        return "the scale is shared by all weights of its block, so divide its bits by their number."
    return "count the bits of a block, and divide by the number of its weights."


def _chosen(answer: object) -> str | None:
    for choices in CHOICES:
        for price in PRICES:
            found = number(call(answer, list(choices), price))
            costs = [loss + price * bits for bits, loss in choices]
            if same(found, costs.index(min(costs))):
                continue
            if same(found, min(range(len(choices)), key=lambda i: choices[i][1])):
                return f"at λ = {price:g} the bits count too."
            if same(found, min(range(len(choices)), key=lambda i: choices[i][0])):
                return f"at λ = {price:g} the loss counts too."
            if same(found, min(costs)):
                return "the index of the format is required, not its cost."
            return f"at λ = {price:g} it is not the format with the least loss + λ · bits."
    return None


EXERCISES = {
    "08.1": Exercise(
        f"A block of GGUF's Q4_0 has {BLOCK} weights: a code of {CODE} bits for each, and one scale in float16. How "
        "many bits per weight are stored? (a number)",
        (
            "Count all bits of one block.",
            "Add the bits of all codes and the bits of the scale.",
            f"A block has {BLOCK} × {CODE} bits of codes and {SCALE} bits of the scale, and {BLOCK} weights share "
            "them.",
        ),
        _stored,
    ),
    "08.2": Exercise(
        "A layer can be stored in several formats, each with its bits and its loss. Write chosen(choices, lmbda): the "
        "index of the format with the least loss + λ · bits, from a list of pairs (bits, loss).",
        (
            "At λ = 0 it is the format with the least loss.",
            "Compute loss + λ · bits for each pair and find the least of them.",
            "min(range(len(choices)), key=…) returns an index; the key is a function of the index that returns the "
            "cost.",
        ),
        _chosen,
    ),
}
