"""What holds for every test."""

import os
import time
from collections import defaultdict
from pathlib import Path

import hypothesis
import pytest

# Workers share the machine: each computes with its part of the threads, and so do the servers and kernels it starts.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
# No test opens a window, and none is judged by how long it took: the machine may be busy.
os.environ.setdefault("MPLBACKEND", "Agg")
# None reads or fills the user's own cache.
os.environ["NBQUANT_CACHE"] = ""
hypothesis.settings.register_profile("nbquant", deadline=None, print_blob=True)
# In CI the same examples every time, so that a red run can be told from bad luck.
hypothesis.settings.register_profile("ci", hypothesis.settings.get_profile("nbquant"), derandomize=True, database=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") == "true" else "nbquant")

HERE = Path(__file__).parent
USUAL = 15  # minutes of the whole run on two cores
SECONDS = "nbquant/seconds"  # of each file of tests, and of the last whole run, in pytest's cache
# What takes longest comes first, so that no worker is left with it when the others are done.
IN_JUPYTERLAB = tuple(f"browser/test_{name}.py" for name in ("explorer", "lab", "still_output"))
FIRST = (
    *(*IN_JUPYTERLAB, "browser", "test_notebooks.py", "analysis/test_sweep.py", "benchmarks/test_benchmarks.py"),
    *("test_course.py", "test_whole_pipeline.py", "quantization/test_workers.py", "test_cli.py"),
    *("models/test_ranks.py", "sensitivity/test_any_loss.py", "widgets/state/test_state.py", "kernels/test_assign.py"),
    *("test_docs.py", "test_extension.py", "widgets", "benchmarks", "pipeline", "analysis", "sensitivity"),
)


def _place(item: pytest.Item) -> int:
    path = item.path.relative_to(HERE)
    return next((i for i, name in enumerate(FIRST) if path.is_relative_to(name)), len(FIRST))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One worker more than cores, at most five: browser tests often wait."""
    return min(os.cpu_count() or 1, 4) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Give what runs in JupyterLab to one worker, which starts one; any takes a run of a notebook or a file."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if nodeid.removeprefix("tests/").startswith(IN_JUPYTERLAB):
                return "JupyterLab"
            return nodeid if "::test_notebook_runs[" in nodeid else nodeid.partition("::")[0]

    return Scheduling(config, log)


class Clock:
    """Notes how long each file takes, so that the next run can tell beforehand, and `make check` choose."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        chosen = config.option.keyword or config.option.markexpr or config.option.collectonly
        self.is_whole = config.args == config.getini("testpaths") and not chosen
        self.begun, self.took = time.monotonic(), defaultdict[str, float](float)

    def pytest_report_header(self) -> str:
        last = self.config.cache.get(SECONDS, {}).get("")
        before = f"the last one here took {last / 60:.1f}" if last else f"on two cores it takes about {USUAL}"
        return f"a whole run: {before} minutes" if self.is_whole else ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.took[report.location[0]] += report.duration

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if self.is_whole and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            self.config.cache.set(SECONDS, {"": time.monotonic() - self.begun, **self.took})


def pytest_configure(config: pytest.Config) -> None:
    if not workers and config.pluginmanager.hasplugin("cacheprovider"):
        config.pluginmanager.register(Clock(config))
