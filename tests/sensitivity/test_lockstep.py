"""Runs that wait for each other."""

import threading

import pytest

from nbquant.sensitivity.lockstep import Runs


def walker(*keys, log=None):
    def run(stop):
        for key in keys:
            stop(key, len(keys))
            if log is not None:
                log.append(key)

    return run


def test_the_earliest_key_comes_first_with_all_runs_that_are_there():
    runs = Runs([walker("a", "b", "c"), walker("a", "c"), walker("b")])
    assert list(runs.pauses("abc".index)) == [("a", {0: 3, 1: 2}), ("b", {0: 3, 2: 1}), ("c", {0: 3, 1: 2})]


def test_one_at_a_time_and_none_before_it_is_asked_for():
    log = []
    runs = Runs([walker("a", "b", log=log), walker("a", log=log)])
    pauses = runs.pauses("ab".index)
    assert next(pauses)[0] == "a"
    assert not log
    assert next(pauses)[0] == "b"
    assert log == ["a", "a"]


def test_what_a_run_raises_is_raised_where_it_was_let_go_on():
    def fails(stop):
        stop("a", None)
        raise ZeroDivisionError

    pauses = Runs([walker("a", "b"), fails]).pauses("ab".index)
    next(pauses)
    with pytest.raises(ZeroDivisionError):
        next(pauses)


def test_no_thread_is_left_when_the_caller_stops():
    before, log = threading.active_count(), []
    pauses = Runs([walker("a", "b", log=log), walker("a", log=log)]).pauses("ab".index)
    next(pauses)
    pauses.close()
    assert threading.active_count() == before
    assert not log
