import subprocess
import sys
import threading

import pytest

from nbquant.progress import Cancelled
from nbquant.widgets.jobs.slot import Job, Slot
from tests.widgets.samples import WAIT


class Log:
    def __init__(self):
        self.entries = []

    def job(self, name, work, **more):
        return Job(
            work,
            done=lambda result: self.entries.append((name, "done", result)),
            failed=lambda error: self.entries.append((name, "failed", str(error))),
            cancelled=lambda: self.entries.append((name, "cancelled", None)),
            **more,
        )


def until_unwanted(started):
    def work(report):
        started.set()
        while True:
            report(0, None)

    return work


def test_result_arrives():
    log, slot = Log(), Slot("test")
    slot.start(log.job("a", lambda report: 7))
    assert slot.wait(WAIT)
    assert log.entries == [("a", "done", 7)]


def test_slot_can_be_used_again_and_again():
    log, slot = Log(), Slot("test")
    for i in range(20):
        slot.start(log.job(i, lambda report, i=i: i))
        assert slot.wait(WAIT)
    assert log.entries == [(i, "done", i) for i in range(20)]


def test_newest_job_wins_and_the_others_are_silent():
    log, slot, started = Log(), Slot("test"), threading.Event()
    slot.start(log.job("first", until_unwanted(started)))
    assert started.wait(WAIT)
    for name in ("second", "third"):
        slot.start(log.job(name, lambda report: "result"))
    assert slot.wait(WAIT)
    assert log.entries[-1] == ("third", "done", "result")
    assert all(name != "first" for name, *_ in log.entries)


def test_user_cancels():
    log, slot, started = Log(), Slot("test"), threading.Event()
    slot.start(log.job("a", until_unwanted(started)))
    assert started.wait(WAIT)
    slot.cancel()
    assert slot.wait(WAIT)
    assert log.entries == [("a", "cancelled", None)]


def test_result_that_came_too_late_is_dropped():
    log, slot, started, go = Log(), Slot("test"), threading.Event(), threading.Event()

    def deaf(report):
        started.set()
        go.wait(WAIT)
        return "late"

    slot.start(log.job("a", deaf))
    assert started.wait(WAIT)
    slot.cancel()
    go.set()
    assert slot.wait(WAIT)
    assert log.entries == [("a", "cancelled", None)]


def test_cancelling_an_idle_slot_does_not_harm_the_next_job():
    log, slot = Log(), Slot("test")
    slot.cancel()
    slot.start(log.job("a", lambda report: 1))
    assert slot.wait(WAIT)
    assert log.entries == [("a", "done", 1)]


def test_failure_is_told_and_the_slot_lives_on():
    log, slot = Log(), Slot("test")

    def fail(report):
        raise ValueError("no such thing")

    slot.start(log.job("a", fail))
    assert slot.wait(WAIT)
    slot.start(log.job("b", lambda report: 1))
    assert slot.wait(WAIT)
    assert log.entries == [("a", "failed", "no such thing"), ("b", "done", 1)]


def test_failure_of_unwanted_work_is_not_told():
    log, slot, started, go = Log(), Slot("test"), threading.Event(), threading.Event()

    def fail_late(report):
        started.set()
        go.wait(WAIT)
        raise ValueError("too late to matter")

    slot.start(log.job("a", fail_late))
    assert started.wait(WAIT)
    slot.start(log.job("b", lambda report: 1))
    go.set()
    assert slot.wait(WAIT)
    assert log.entries == [("b", "done", 1)]


def test_a_failing_callback_does_not_kill_the_slot(monkeypatch):
    slot, seen = Slot("test"), []
    monkeypatch.setattr(threading, "excepthook", lambda args: seen.append(args.exc_type))

    def fail(result):
        raise RuntimeError("in the view")

    slot.start(Job(lambda report: 1, done=fail, failed=lambda error: seen.append(str(error))))
    assert slot.wait(WAIT)
    log = Log()
    slot.start(log.job("b", lambda report: 1))
    assert slot.wait(WAIT)
    assert seen == ["in the view"]
    assert log.entries == [("b", "done", 1)]


def test_progress_is_reported():
    seen, slot = [], Slot("test")
    slot.start(
        Job(
            lambda report: [report(i, 3) for i in range(4)],
            done=lambda result: None,
            failed=lambda error: None,
            reported=lambda done, total: seen.append((done, total)),
        )
    )
    assert slot.wait(WAIT)
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_cancelled_is_no_error_for_callers_that_catch_errors_of_ours():
    assert not issubclass(Cancelled, ValueError | TypeError)
    with pytest.raises(Cancelled):
        raise Cancelled


def test_python_ends_cleanly_while_work_is_under_way():
    """A thread in compiled code at the end of Python would abort the process."""
    script = (
        "import torch\n"
        "from nbquant.widgets.jobs.slot import Job, Slot\n"
        "def work(report):\n"
        "    while True:\n"
        "        report(0, None)\n"
        "        w = torch.randn(40, 40, requires_grad=True)\n"
        "        torch.linalg.svdvals(w @ w).sum().backward()\n"
        "slots = [Slot(str(i)) for i in range(3)]\n"
        "for slot in slots:\n"
        "    slot.start(Job(work, print, print))\n"
        "torch.randn(500, 500).svd()\n"
    )
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
