"""Every benchmark runs, on tiny sizes and with the peers that are installed; what its numbers say is not looked at."""

import ast
import importlib
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from nbquant.kernels import dispatch
from tests.benchmarks import __main__ as runner
from tests.benchmarks import bench_ecsq, bench_formats, bench_kmeans, options, synthetic
from tests.benchmarks.turns import one_thread, take_turns

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NAMES = sorted(script.stem for script in HERE.glob("bench_*.py"))
DISTRIBUTIONS = {"sklearn": "scikit-learn", "backpack": "backpack-for-pytorch", "PIL": "pillow"}  # whose names differ
PEERS = ("flash1dkmeans", "ckwrap", "sklearn", "backpack", "constriction", "zstandard", "gguf")


@pytest.mark.parametrize("name", NAMES)
def test_benchmark_runs_without_peers(name, monkeypatch, capsys):
    module = importlib.import_module(f"tests.benchmarks.{name}")
    monkeypatch.setattr(options, "find_spec", lambda peer: None if peer in PEERS else find_spec(peer))
    if name == "bench_slider":
        monkeypatch.setattr(module, "find_chromium", lambda: None)  # tests/browser presses the slider
    if name == "bench_kmeans":
        monkeypatch.setattr(module, "memory", lambda n, k: None)  # in a process of its own
    module.main(["--smoke"])
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) >= (1 if name == "bench_slider" else 3)
    with_peers = (
        "bench_formats",
        "bench_kmeans",
        "bench_limit",
        "bench_networks",
        "bench_sensitivity",
        "bench_huffman",
        "bench_slider",
        "bench_storage",
    )
    assert ("skipped: " in shown) == (name in with_peers)


@pytest.mark.parametrize("peer", bench_kmeans.PEERS)
def test_peer_finds_clusters(peer):
    pytest.importorskip(peer)
    w, h = synthetic.weights(2_000)
    cost = bench_kmeans.distortion(w, h, bench_kmeans.PEERS[peer](w, h, 4))[0]
    assert 1 - 1e-9 <= cost / bench_kmeans.optimum(w, h, 4) < 1.5


@pytest.mark.parametrize("method", bench_kmeans.OURS)
def test_optimum_is_the_least(method):
    w, h = synthetic.weights(20_000)
    cost = bench_kmeans.distortion(w, h, bench_kmeans.OURS[method](w, h, 8))[0]
    assert 1 - 1e-6 <= cost / bench_kmeans.optimum(w, h, 8) < 1.001


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("bench_sensitivity", "backpack"),
        ("bench_huffman", "constriction"),
        ("bench_storage", "zstandard"),
        ("bench_formats", "gguf"),
    ],
)
def test_benchmark_runs_with_its_peer(name, peer, capsys):
    pytest.importorskip(peer)
    importlib.import_module(f"tests.benchmarks.{name}").main(["--smoke"])
    assert peer in capsys.readouterr().out.lower()


def test_compiled_iteration_is_the_plain_one():
    w, h = (values.numpy() for values in synthetic.weights(1_001))
    codebook, price = np.array([-0.05, -0.01, 0.0, 0.04]), np.array([3e-4, 2e-4, 1e-4, 3e-4])
    plain = bench_ecsq.sums_numpy(w, h, codebook, price)
    np.testing.assert_allclose(bench_ecsq.sums_compiled(w, h, codebook, price), plain, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "bench_kernels"])
def test_only_kernels_are_measured_on_another_device(name, capsys):
    importlib.import_module(f"tests.benchmarks.{name}").main(["--device", "cuda"])
    assert capsys.readouterr().out == "skipped: measures nothing on cuda\n"


def test_arguments_are_split_into_names_and_options():
    assert runner.split(["kmeans", "ecsq", "--rounds", "3"]) == (["kmeans", "ecsq"], ["--rounds", "3"])
    assert runner.split([]) == ([], [])


def test_turns_alternate_and_stop_at_the_budget():
    calls = []
    taken = take_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == list("ababab"), "the first round warms"
    assert len(taken["a"].seconds) == 2
    once = take_turns({"a": lambda: sum(range(1000))}, 3, warm=False, budget=0.0)["a"]
    assert len(once.seconds) == 1
    assert once.result == 499500


def test_threads_are_given_back(monkeypatch):
    monkeypatch.setattr(dispatch, "THREADS", 3)
    before = 3, torch.get_num_threads()
    with one_thread():
        assert (dispatch.THREADS, torch.get_num_threads()) == (1, 1)
    assert (dispatch.THREADS, torch.get_num_threads()) == before


def test_extra_lists_all_that_benchmarks_import():
    """``pip install -e '.[bench]'`` alone must do, so the tests' own requirements do not count."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + project["optional-dependencies"]["bench"]
    listed = {canonicalize_name(Requirement(line).name) for line in lines}
    elsewhere = ("limit_peers.py",)  # run by a Python of its own
    own = [p for p in HERE.glob("*.py") if not p.name.startswith("test_") and p.name not in elsewhere]
    sources = [*own, ROOT / "tests" / "browser" / "lab.py"]
    used = {name for source in sources for name in imported(source)} - set(sys.stdlib_module_names)
    missing = {n for n in used - {"nbquant", "tests"} if canonicalize_name(DISTRIBUTIONS.get(n, n)) not in listed}
    assert not missing - set(bench_formats.LARGE_PEERS)  # which it says how to install


def imported(source: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(source.read_text())))
    whole = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    parts = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.split(".")[0] for name in whole | parts}
