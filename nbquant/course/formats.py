"""Exercises of notebook 08: formats of others."""

from nbquant.course.exercise import Exercise, call, number, same

BLOCK, CODE, SCALE = 32, 4, 16
CHOICES = (((4.5, 3.0), (5.5, 1.0), (8.5, 0.2)), ((8.5, 0.2), (4.5, 3.0), (5.5, 1.0)))
PRICES = (0.0, 0.5, 1.0, 10.0)


def _stored(answer: object) -> str | None:
    found = number(answer)
    if same(found, CODE + SCALE / BLOCK):
        return None
    if same(found, CODE):
        return "those are the codes alone."
    if same(found, CODE + 32 / BLOCK):
        return "the scale has 16 bits, not 32."
    if same(found, CODE + SCALE):
        return "a scale is shared by all weights of its block."
    return "count the bits of a block, and divide by its weights."


def _chosen(answer: object) -> str | None:
    for choices in CHOICES:
        for price in PRICES:
            found = number(call(answer, list(choices), price))
            costs = [loss + price * bits for bits, loss in choices]
            if same(found, costs.index(min(costs))):
                continue
            if same(found, min(range(len(choices)), key=lambda i: choices[i][1])):
                return f"at λ = {price:g} bits count too."
            if same(found, min(range(len(choices)), key=lambda i: choices[i][0])):
                return f"at λ = {price:g} loss counts too."
            if same(found, min(costs)):
                return "the place of the format is asked for, not what it costs."
            return f"at λ = {price:g} it is not the format of least loss + λ · bits."
    return None


EXERCISES = {
    "08.1": Exercise(
        f"A block of GGUF's Q4_0 has {BLOCK} weights: a code of {CODE} bits for each, and one scale in float16. How "
        "many bits a weight are stored? (a number)",
        ("Add the bits of all codes and of the scale.", f"{BLOCK} × {CODE} + {SCALE}, over {BLOCK} weights."),
        _stored,
    ),
    "08.2": Exercise(
        "Write chosen(choices, lmbda): of a layer's formats, a list of pairs (bits, loss), the place of the one of "
        "least loss + λ · bits.",
        ("At λ = 0 it is the one of least loss.", "min(range(len(choices)), key=…)"),
        _chosen,
    ),
}
