from dataclasses import replace

import pytest

from nbquant.widgets.settings import Settings
from nbquant.widgets.state.history import DRAG, MOST_HEAVY, History
from nbquant.widgets.state.moment import Model, Moment

FIRST = Settings(("0",), "kmeans", True, "huffman", False, False, "gauss_newton", 0, 0.1, "ratio", 6.0)


def at(settings, finetuned=None):
    return Moment(settings, Model(None, None), finetuned)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_drag_is_one_step_and_another_input_or_a_rest_ends_it():
    clock = Clock()
    history, now = History(clock), FIRST
    for i in range(5):
        clock.now += 0.9 * DRAG
        history.record(at(now), "ratio")
        now = now.at("ratio", 7.0 + i)
    history.record(at(now), "damping")
    now = replace(now, damping=0.2)
    clock.now += 1.1 * DRAG
    history.record(at(now), "damping")
    now = replace(now, damping=0.3)
    seen = []
    while history.can_undo:
        now = history.undo(at(now)).settings
        seen.append((now.value, now.damping))
    assert seen == [(11.0, 0.2), (11.0, 0.1), (6.0, 0.1)]
    assert history.redo(at(now)).settings.value == 11.0


def test_changes_of_several_inputs_are_never_joined():
    history = History(Clock())
    history.record(at(FIRST))
    history.record(at(FIRST.at("ratio", 7.0)))
    assert history.undo(at(FIRST.at("ratio", 8.0))).settings.value == 7.0
    assert history.undo(at(FIRST.at("ratio", 7.0))).settings == FIRST
    assert history.undo(at(FIRST)) is None


def test_a_new_change_ends_redo():
    history = History(Clock())
    history.record(at(FIRST), "ratio")
    history.undo(at(FIRST.at("ratio", 7.0)))
    assert history.can_redo
    history.record(at(FIRST), "ratio")
    assert not history.can_redo


def test_few_of_what_takes_memory_are_kept():
    history = History(Clock())
    for i in range(MOST_HEAVY + 5):
        history.record(at(FIRST.at("ratio", 2.0 + i)))
        history.record(at(FIRST.at("ratio", 2.0 + i), finetuned=object()))
    seen, now = [], at(FIRST)
    while history.can_undo:
        now = history.undo(now)
        seen.append(now)
    assert sum(moment.finetuned is not None for moment in seen) == MOST_HEAVY
    assert len(seen) == 2 * MOST_HEAVY  # no step in between is missing


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "kmean"}, "kmeans, uniform, ecsq"),
        ({"weighted": 1}, "true or false"),
        ({"layers": "fc"}, "list of names"),
        ({"layers": [1]}, "names of layers"),
        ({"samples": -1}, "0 for all"),
        ({"samples": 1.5}, "whole number"),
        ({"damping": float("nan")}, "finite"),
        ({"damping": True}, "finite"),
        ({"damping": 10**400}, "finite"),
        ({"driver": "rate"}, "together"),
        ({"driver": "lmbda", "value": 0.1}, "parameter of ecsq"),
        ({"driver": "speed", "value": 0.1}, "must be one of"),
        ({"driver": "levels", "value": 2.5}, "whole number"),
        ({"driver": "ratio", "value": "6"}, "finite number"),
        ({"driver": "ratio", "value": 10**400}, "ratio must be a finite"),
        ({"ratio": 6.0}, "'ratio' came"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        FIRST.updated(values)


def test_settings_survive_plain_values():
    other = replace(FIRST, layers=("0", "2"), method="ecsq").at("lmbda", 1e-3)
    assert FIRST.updated(other.to_json()) == other
