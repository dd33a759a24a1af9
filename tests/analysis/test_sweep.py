"""Many quantizations: the same rows wherever they run, and none computed twice."""

import importlib
import math
import os
import signal
from functools import partial

import pandas as pd
import pytest
import torch
from torch import nn

import nbquant as nq
from nbquant.analysis import executors
from nbquant.progress import Cancelled

module = importlib.import_module("nbquant.analysis.sweep")  # the package has a function of that name
METHODS = ["kmeans", {"method": "ecsq", "coding": "arithmetic"}, {"method": "uniform", "weighted": False}]
RATIOS = [4.0, 8.0, 1e6]


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(40, 50), nn.ReLU(), nn.Linear(50, 10))


def selected(model):
    torch.manual_seed(1)
    return nq.select(model, {name: torch.rand_like(p) for name, p in model.named_parameters()})


def models():
    first = network()
    return {"first": (first, selected(first)), "second": network(1)}


@torch.no_grad()
def norm(model):
    return {"norm": float(sum(p.double().square().sum() for p in model.parameters()))}


def without_time(frame):
    return frame.drop(columns="seconds")


@pytest.fixture(scope="module")
def expected():
    return nq.sweep(models(), METHODS, RATIOS, evaluate=norm, progress=False)


def test_rows_are_what_fit_gives(expected):
    assert list(expected["model"]) == ["first"] * 9 + ["second"] * 9
    assert expected["ratio"].tolist() == RATIOS * 6
    made = models()
    for row in expected.to_dict("records"):
        model = made[row["model"]]
        selection = model[1] if isinstance(model, tuple) else nq.select(model)
        options = {k: row[k] for k in ("method", "coding", "weighted") if not pd.isna(row[k])}
        if row["ratio"] == 1e6:
            assert "out of reach" in row["error"]
            assert math.isnan(row["rate"])
            continue
        own = nq.fit(selection, ratio=row["ratio"], **options, progress=False)
        assert (row["rate"], row["levels"], row["distortion"]) == (own.rate, own.levels, own.distortion)
        assert row["compression_ratio"] >= row["ratio"]
        restored = network(0 if row["model"] == "first" else 1)
        assert row["norm"] == norm(own.apply(restored))["norm"]


def test_models_are_left_as_they_were():
    made = models()
    before = {name: [p.clone() for p in (m[0] if isinstance(m, tuple) else m).parameters()] for name, m in made.items()}
    nq.sweep(made, ["uniform"], [8], evaluate=norm, progress=False)
    for name, model in made.items():
        for p, was in zip((model[0] if isinstance(model, tuple) else model).parameters(), before[name], strict=True):
            assert torch.equal(p, was)


def test_nothing_is_computed_twice(tmp_path, monkeypatch, expected):
    """Killed after any row, the rest alone is run."""
    path, ran = tmp_path / "rows.jsonl", []
    run_one = module.run_one
    monkeypatch.setattr(module, "run_one", lambda *args: ran.append(args[1]) or run_one(*args))

    def cancel(done, total):
        assert total == 18
        if done == 7:
            raise Cancelled

    with pytest.raises(Cancelled):
        nq.sweep(models(), METHODS, RATIOS, evaluate=norm, path=path, progress=cancel)
    assert path.read_bytes().count(b"\n") == len(ran) == 7
    with path.open("ab") as file:
        file.write(b'{"key": "to')  # killed within a line
    found = nq.sweep(models(), METHODS, RATIOS, evaluate=norm, path=path, progress=False)
    assert len(ran) == 18
    pd.testing.assert_frame_equal(without_time(found), without_time(expected))
    nq.sweep(models(), METHODS, RATIOS, evaluate=norm, path=path, progress=False)
    assert len(ran) == 18
    nq.sweep(models(), METHODS, [4.0, 5.0], evaluate=norm, path=path, progress=False)
    assert [run["ratio"] for run in ran[18:]] == [5.0] * 6


def test_other_weights_are_another_row(tmp_path):
    path, model = tmp_path / "rows.jsonl", network()
    first = nq.sweep({"m": model}, ["uniform"], [8], path=path, progress=False)
    with torch.no_grad():
        model[0].weight[0, 0] += 10
    second = nq.sweep({"m": model}, ["uniform"], [8], path=path, progress=False)
    assert first["distortion"][0] != second["distortion"][0]
    assert path.read_bytes().count(b"\n") == 2


def killing(path, model):
    """Kills the worker that it runs in, the first time."""
    if not os.path.exists(path):
        with open(path, "w"):
            pass
        os.kill(os.getpid(), signal.SIGKILL)
    return norm(model)


def test_processes_give_the_same_and_a_killed_one_costs_a_retry(tmp_path, expected):
    evaluate, told = partial(killing, tmp_path / "killed"), []
    found = nq.sweep(
        models(),
        METHODS,
        RATIOS,
        evaluate=evaluate,
        executor=2,
        progress=lambda done, total: told.append((done, total)),
    )
    assert (tmp_path / "killed").exists()
    pd.testing.assert_frame_equal(without_time(found), without_time(expected))
    assert told[0] == (0, 18)
    assert told[-1] == (18, 18)


def dying(_model):
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_kills_every_worker_is_said(monkeypatch):
    monkeypatch.setattr(executors, "RETRIES", 1)  # a new process for each
    with pytest.raises(RuntimeError, match="worker processes died 2 times, and 1 runs are left"):
        nq.sweep({"m": network()}, ["uniform"], [8], evaluate=dying, executor=1, progress=False)


def test_processes_can_be_cancelled(tmp_path):
    def cancel(done, _total):
        if done == 2:
            raise Cancelled

    path = tmp_path / "rows.jsonl"
    with pytest.raises(Cancelled):
        nq.sweep(models(), METHODS, RATIOS, executor=1, path=path, progress=cancel)
    assert path.read_bytes().count(b"\n") >= 2


def test_dask_gives_the_same_with_a_worker_killed(tmp_path, expected):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",  # None would still take port 8787
            local_directory=tmp_path / "workers",
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        evaluate = partial(killing, tmp_path / "killed")
        found = nq.sweep(models(), METHODS, RATIOS, evaluate=evaluate, executor=client, progress=False)
    assert (tmp_path / "killed").exists()
    pd.testing.assert_frame_equal(without_time(found), without_time(expected))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (({}, ["ecsq"], [8]), {}, ValueError, "at least one model, one method and one ratio"),
        (({"m": network()}, ["ecsq"], []), {}, ValueError, "at least one"),
        (({"m": network()}, ["ecsq"], [0]), {}, ValueError, "above 0"),
        (({"m": network()}, [{"method": "ecsq", "ratio": 3}], [8]), {}, ValueError, "a method must be a name"),
        (({"m": network()}, [{"coding": "huffman"}], [8]), {}, ValueError, "one is 'method'"),
        (({"m": network()}, ["ecqs"], [8]), {}, ValueError, "method must be one of"),
        (({"m": nq.select(network())}, ["ecsq"], [8]), {"evaluate": norm}, ValueError, "needs a module"),
        (({"m": network()}, ["ecsq"], [8]), {"evaluate": lambda m: {"rate": 1.0}}, TypeError, "rename"),
        (({"m": network()}, ["ecsq"], [8]), {"executor": 0}, ValueError, "1 process or more"),
        (({"m": network()}, ["ecsq"], [8]), {"executor": "dask"}, TypeError, "executor must be None, a number"),
        (({"m": network()}, ["ecsq"], [8]), {"executor": 1, "evaluate": lambda m: 1.0}, TypeError, "must be picklable"),
    ],
)
def test_errors_say_what_was_required(arguments, options, error, message):
    with pytest.raises(error, match=message):
        nq.sweep(*arguments, **options, progress=False)


def test_a_number_is_a_score():
    found = nq.sweep({"m": network()}, ["uniform"], [8], evaluate=lambda model: 3, progress=False)
    assert found["score"].tolist() == [3.0]
    assert found["error"].isna().all()
