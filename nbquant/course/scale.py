"""Exercises of notebook 07: beyond one machine."""

from nbquant.course.answers import call, number, same
from nbquant.course.exercise import Exercise

PARTS = ((4.0, 1.0), (1.0, 2.0), (3.0, -1.5))
SUMS = ((4.0, 1.0, 2.0), (1.0, 2.0, 5.0), (3.0, -1.5, 1.25))


def _shared(answer: object) -> str | None:
    found = number(call(answer, [tuple(part) for part in PARTS]))
    mass, moment = (sum(part[i] for part in PARTS) for i in (0, 1))
    if same(found, moment / mass):
        return None
    if same(found, sum(m / h for h, m in PARTS) / len(PARTS)):
        return "that is the mean of the ranks' own values: it is right only if all ranks have the same Σh."
    if same(found, mass / moment):
        return "that is upside down: it must be Σhw over Σh."
    if same(found, moment):
        return "that is Σhw alone."
    return "it is not the value that one process with all weights finds."


def _cost(answer: object) -> str | None:
    found = number(call(answer, [tuple(sums) for sums in SUMS]))
    mass, moment, square = (sum(sums[i] for sums in SUMS) for i in range(3))
    right = 0.5 * (square - moment**2 / mass)
    if same(found, right):
        return None
    if same(found, 2 * right):
        return "it is twice the right value: the loss has a factor ½."
    if same(found, sum(0.5 * (q - m**2 / h) for h, m, q in SUMS)):
        return "that is the loss if each rank has a value of its own, but all ranks share one value."
    if same(found, 0.5 * square):
        return "that is the loss of the value 0: use the best value of the cluster."
    if same(found, 0.5 * (square + moment**2 / mass)):
        return "a sign is wrong: expand h(w − c)² and insert the best c."
    return "it is not ½Σh(w − c)² at the best value c of all weights together."


EXERCISES = {
    "07.1": Exercise(
        "Each rank knows (Σh, Σhw) of its weights in one cluster. Write shared(parts): the value of the cluster, from "
        "a list with the pair of each rank.",
        (
            "The value is Σhw / Σh over all weights of all ranks.",
            "A sum over all weights is the sum of the sums of the ranks.",
            "Add the first entries of all pairs, add the second entries of all pairs, and divide only at the end.",
        ),
        _shared,
    ),
    "07.2": Exercise(
        "Each rank knows (Σh, Σhw, Σhw²) of its weights in one cluster. Write cost(parts): the loss ½Σh(w − c)² of the "
        "cluster at its best value c, from a list with the triple of each rank.",
        (
            "Expand the square: ½Σh(w − c)² = ½(Σhw² − 2cΣhw + c²Σh).",
            "The best value is that of exercise 07.1, c = Σhw / Σh, with sums over all ranks.",
            "Insert c in the expanded square: two of its three terms combine, and what remains needs only the three "
            "sums, each added over the ranks first.",
        ),
        _cost,
    ),
}
