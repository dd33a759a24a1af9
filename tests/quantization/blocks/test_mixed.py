"""Mixed formats against exhaustive search over all combinations."""

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbquant.quantization.blocks import formats, mixed
from nbquant.quantization.blocks.mixed import Choice, allocate, choose, measure
from tests.quantization.blocks.samples import sensitivities, weights

CHOICES = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 100)), min_size=1, max_size=4)
NAMES = ("q2_k", "q4_0", "q6_k", "q8_0")


@settings(max_examples=200, deadline=None)
@given(st.lists(CHOICES, min_size=1, max_size=5), st.floats(0, 1))
def test_loss_is_the_least_of_all_combinations(tensors: list[list[tuple[int, int]]], share: float) -> None:
    choices = {
        f"t{t}": [Choice(f"f{k}", float(bits), float(loss)) for k, (bits, loss) in enumerate(of)]
        for t, of in enumerate(tensors)
    }
    low, high = (sum(end(c.bits for c in of) for of in choices.values()) for end in (min, max))
    budget = low + share * (high - low)
    least = min(
        sum(c.loss for c in combination)
        for combination in product(*choices.values())
        if sum(c.bits for c in combination) <= budget
    )
    found = allocate(choices, budget)
    assert found.exact
    assert found.bits <= budget
    assert found.loss == pytest.approx(least)
    assert found.bound <= least + 1e-9


def tensors() -> dict[str, np.ndarray]:
    weight = weights()
    return {f"layer{i}": weight[4 * i : 4 * i + 4] * np.float32(2**i) for i in range(4)}


def test_formats_of_layers_are_the_best_within_the_budget() -> None:
    listed = [formats.named(name) for name in NAMES]
    layers = tensors()
    h = {name: sensitivities(w.shape) for name, w in layers.items()}
    measured = {name: measure(listed, w, h[name]) for name, w in layers.items()}
    count = sum(w.size for w in layers.values())
    losses = []
    for rate in (2.7, 4.0, 5.5, 8.5):
        found = choose(listed, layers, rate * count, h)
        assert found.bits <= rate * count
        losses.append(found.loss)
        least = min(
            sum(c.loss for c in combination)
            for combination in product(*measured.values())
            if sum(c.bits for c in combination) <= rate * count
        )
        assert found.loss == pytest.approx(least)
    assert losses == sorted(losses, reverse=True)
    assert {choice.format for choice in found.choices.values()} == {"q8_0"}


def test_bits_of_a_choice_are_those_of_the_file() -> None:
    (choice,) = measure([formats.named("q8_0")], weights())
    assert choice.bits == weights().size * 8.5


def test_on_the_hull_slopes_are_equal() -> None:
    """Many alike tensors: what gains more for a bit than the slope is chosen, and nothing that gains less."""
    rng = np.random.default_rng(3)
    choices = {
        f"t{t}": [Choice(str(b), b * 100.0, scale * 4.0**-b) for b in (2, 3, 4, 6, 8)]
        for t, scale in enumerate(rng.lognormal(0, 3, 60))
    }
    found = allocate(choices, 60 * 430)
    assert found.loss <= found.bound * 1.01
    wrong = 0
    for name, of in choices.items():
        at = list(of).index(found.choices[name])
        gains = [(a.loss - b.loss) / (b.bits - a.bits) for a, b in pairwise(of)]
        wrong += (at > 0 and gains[at - 1] < found.slope * (1 - 1e-9)) or (
            at < len(gains) and gains[at] > found.slope * (1 + 1e-9)
        )
    assert wrong <= 3  # the last bits of the budget


def test_too_many_combinations_leave_the_first_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixed, "MOST_STATES", 1)
    rng = np.random.default_rng(0)
    choices = {
        f"t{t}": [Choice(str(k), float(bits), float(loss)) for k, (bits, loss) in enumerate(rng.uniform(1, 9, (4, 2)))]
        for t in range(8)
    }
    found = allocate(choices, 30.0)
    assert not found.exact
    assert found.bits <= 30
    assert found.bound <= found.loss


@pytest.mark.parametrize(
    ("choices", "budget", "message"),
    [
        ({}, 1.0, "at least one tensor"),
        ({"a": []}, 1.0, "a format for each"),
        ({"a": [Choice("x", 10.0, 0.0)]}, 9.0, "take 10 bits, but the budget is 9"),
    ],
)
def test_bad_input(choices: dict[str, list[Choice]], budget: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        allocate(choices, budget)
