"""Exercises of notebook 07: beyond one machine."""

from nbquant.course.exercise import Exercise, call, number, same

PARTS = ((4.0, 1.0), (1.0, 2.0), (3.0, -1.5))
RUNS, DONE, SECONDS, PROCESSES = 3 * 4 * 10, 57, 20, 4


def _shared(answer: object) -> str | None:
    found = number(call(answer, [tuple(part) for part in PARTS]))
    mass, moment = (sum(part[i] for part in PARTS) for i in (0, 1))
    if same(found, moment / mass):
        return None
    if same(found, sum(m / h for h, m in PARTS) / len(PARTS)):
        return "that is the mean of the ranks' own values, as if all ranks had the same total sensitivity."
    if same(found, mass / moment):
        return "that is upside down: Σhw over Σh."
    if same(found, moment):
        return "that is Σhw alone."
    return "it is not the value that one process with all weights would find."


def _restart(answer: object) -> str | None:
    found, left = number(answer), RUNS - DONE
    rounds = -(-left // PROCESSES)
    if same(found, rounds * SECONDS):
        return None
    if same(found, left * SECONDS):
        return f"{PROCESSES} processes run at once."
    if same(found, left * SECONDS / PROCESSES):
        return "a run is not divided: in the last round some processes may have none."
    if same(found, -(-RUNS // PROCESSES) * SECONDS):
        return "rows that were found are not computed again."
    if same(found, -(-(left - PROCESSES) // PROCESSES) * SECONDS):
        return "unfinished runs have no row yet: they start again."
    return "count the runs without a row, and in how many rounds they are done."


EXERCISES = {
    "07.1": Exercise(
        "Each rank knows (Σh, Σhw) of its weights in one cluster. Write shared(parts): the value of the cluster, from "
        "a list with the pair of each rank.",
        ("The value is Σhw / Σh over all weights, wherever they are.", "Add first, divide last."),
        _shared,
    ),
    "07.2": Exercise(
        f"A sweep of 3 models, 4 methods and 10 ratios on {PROCESSES} processes was killed: {DONE} rows were in its "
        f"file and {PROCESSES} runs under way. A run takes {SECONDS} s. How many seconds does it take after it is "
        "started again? (a number)",
        ("How many rows are missing?", f"{PROCESSES} at once, and the last round may not be full."),
        _restart,
    ),
}
