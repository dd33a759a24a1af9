"""Live picture: a path through a trellis of four states, step by step."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from matplotlib.figure import Figure

from nbquant.course.live import Live, slider
from nbquant.views.notebook_figure import NotebookFigure
from nbquant.views.palette import BLUE, VERMILION

TRANSITION = ((0, 2), (2, 0), (1, 3), (3, 1))
"""Next state by state and parity of the level k; in the states 0 and 1 the even integers are in force, in 2 and 3 the
odd ones and zero. As in ITU-T H.266."""
STATES = len(TRANSITION)


def integer_of(state: int, level: int) -> int:
    """Compute the integer m of a level k: 2k, or 2k − sign(k) where the odd integers are in force."""
    return 2 * level - (int(np.sign(level)) if state >= STATES // 2 else 0)


def nearest_level(target: float, state: int, parity: int) -> int:
    """Find the level of a parity whose integer is nearest."""
    near = round(target / 2)
    levels = [level for level in range(near - 3, near + 4) if level % 2 == parity]
    return min(levels, key=lambda level: (abs(integer_of(state, level) - target), abs(level)))


@dataclass(frozen=True)
class Branch:
    """An edge of the trellis.

    Attributes:
        start: State before.
        end: State after.
        integer: Integer on it.
        cost: Its squared error [step²].
    """

    start: int
    end: int
    integer: int
    cost: float


@dataclass(frozen=True)
class TrellisPathData:
    """Viterbi's algorithm after some weights.

    Attributes:
        target: Weights, in steps.
        done: How many of them have been seen.
        branches: All branches, by weight.
        survivors: The surviving branch into each state, by weight seen; None where no path leads.
        cost: Least cost of each state after each weight, infinite where no path leads.
        path: States of the best path so far.
        integers: Integers of the best path so far.
    """

    target: Float[np.ndarray, " n"]
    done: int
    branches: tuple[tuple[Branch, ...], ...]
    survivors: tuple[tuple[Branch | None, ...], ...]
    cost: Float[np.ndarray, "n+1 states"]
    path: tuple[int, ...]
    integers: Int64[np.ndarray, " done"]

    @property
    def error(self) -> float:
        """Squared error of the best path so far [step²]."""
        return float(self.cost[self.done].min())

    @property
    def scalar_error(self) -> float:
        """Squared error of rounding the same weights to even integers, without changes of state."""
        seen = self.target[: self.done]
        return float(((2 * np.rint(seen / 2) - seen) ** 2).sum())

    @property
    def summary(self) -> str:
        """The path so far, in a sentence."""
        if not self.done:
            return f"{len(self.target)} weights, none of them quantized yet; the path starts in state 0."
        found = ", ".join(f"{m:d}" for m in self.integers)
        return (
            f"After {self.done} of {len(self.target)} weights the best path has the integers {found}; its squared "
            f"error is {self.error:.2f} steps². With the nearest even integers it would be {self.scalar_error:.2f} "
            "steps²."
        )


def trellis_path_data(target: Float[np.ndarray, " n"], done: int) -> TrellisPathData:
    """Run Viterbi's algorithm on the first weights.

    Args:
        target: Weights, in steps.
        done: How many weights it has seen.
    """
    branches = tuple(tuple(_branches(float(t))) for t in target)
    cost = np.full((len(target) + 1, STATES), np.inf)
    cost[0, 0] = 0.0
    survivors: list[tuple[Branch | None, ...]] = []
    for place in range(done):
        into: list[Branch | None] = [None] * STATES
        for branch in branches[place]:
            total = cost[place, branch.start] + branch.cost
            if total < cost[place + 1, branch.end]:
                cost[place + 1, branch.end], into[branch.end] = total, branch
        survivors.append(tuple(into))
    path, integers = [int(cost[done].argmin())], list[int]()
    for place in reversed(range(done)):
        back = survivors[place][path[0]]
        assert back is not None
        path.insert(0, back.start)
        integers.insert(0, back.integer)
    return TrellisPathData(
        target, done, branches, tuple(survivors), cost, tuple(path), np.array(integers, dtype=np.int64)
    )


def _branches(target: float) -> list[Branch]:
    found = []
    for state in range(STATES):
        for parity in (0, 1):
            integer = integer_of(state, nearest_level(target, state, parity))
            found.append(Branch(state, TRANSITION[state][parity], integer, (integer - target) ** 2))
    return found


def draw_trellis_path(data: TrellisPathData) -> Figure:
    """Draw the trellis with its surviving branches, costs, and the best path so far."""
    figure = NotebookFigure(figsize=(9.2, 4.4), layout="constrained", facecolor="white")
    axes = figure.subplots()
    best = set(zip(range(data.done), data.path[:-1], data.path[1:], strict=True))
    for place, row in enumerate(data.branches):
        for branch in row:
            survives = place < data.done and data.survivors[place][branch.end] is branch
            colour, width, order = "#dddddd", 1.0, 1
            if survives:
                colour, width, order = BLUE, 1.6, 2
            if survives and (place, branch.start, branch.end) in best:
                colour, width, order = VERMILION, 3.2, 3
            if place and not np.isfinite(data.cost[place, branch.start]) and place <= data.done:
                continue
            if not place and branch.start:
                continue
            axes.plot([place, place + 1], [-branch.start, -branch.end], color=colour, lw=width, zorder=order)
            if (place, branch.start, branch.end) in best:
                at = (place + 0.42, -branch.start - 0.42 * (branch.end - branch.start))
                text = f"{branch.integer}".replace("-", "−")
                axes.text(*at, text, color=VERMILION, fontsize=10, weight="bold", ha="center", zorder=6,
                          bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
    for place in range(len(data.target) + 1):
        for state in range(STATES):
            reached = place <= data.done and np.isfinite(data.cost[place, state])
            on = place <= data.done and data.path[place] == state
            face = VERMILION if on else BLUE if reached else "#eeeeee"
            axes.plot(place, -state, "o", ms=24, mfc=face, mec="white", zorder=4)
            if reached:
                text = f"{data.cost[place, state]:.2f}"
                axes.text(place, -state, text, ha="center", va="center", fontsize=7.5, color="white", zorder=5)
    for place, target in enumerate(data.target):
        axes.text(place + 0.5, 0.62, f"{target:.2f}".replace("-", "−"), ha="center", fontsize=10)
    axes.text(-0.45, 0.62, "weight", ha="right", fontsize=10, weight="bold")
    for state in range(STATES):
        kind = "even" if state < STATES // 2 else "odd, 0"
        axes.text(-0.45, -state, f"state {state}\n({kind})", ha="right", va="center", fontsize=9)
    title = "Costs in the nodes [step²], surviving paths in blue, the best one so far in orange"
    axes.set_title(title, loc="left", fontsize=10, weight="bold")
    axes.set(xlim=(-1.5, len(data.target) + 0.4), ylim=(-STATES + 0.5, 1.0))
    axes.axis("off")
    return figure


def show(weight: Float[np.ndarray, " n"], step: float, done: int = 5, length: int = 8) -> Live:
    """Show the trellis, with sliders for the weights seen so far and for where in a row they begin.

    Args:
        weight: A row of weights.
        step: Step of the integers.
        done: First number of weights seen.
        length: Weights of the picture.
    """
    return Live(
        lambda done, first: trellis_path_data(weight[first : first + length] / step, done),
        draw_trellis_path,
        {
            "done": slider("weights seen", range(length + 1), done),
            "first": slider("first weight", range(0, len(weight) - length + 1, length), 0),
        },
    )
