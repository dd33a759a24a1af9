"""Checkpoints that workers of a Dask cluster sweep over, one task a file: what is found is what one process finds."""

import json
import os
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import save_file

import nbquant as nq
from nbquant.analysis import statistics
from nbquant.progress import Cancelled
from nbquant.quantization import workers
from nbquant.quantization.workers import Workers

distributed = pytest.importorskip("distributed")


def write(folder, name, tensors):
    """A checkpoint of three files, and the path of its index."""
    files = [dict(list(tensors.items())[i::3]) for i in range(3)]
    for i, own in enumerate(files):
        save_file(own, folder / f"{name}-{i}.safetensors")
    where = {key: f"{name}-{i}.safetensors" for i, own in enumerate(files) for key in own}
    path = folder / f"{name}.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": where}))
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Weights with their sensitivities: one tensor of a million, and small ones of another type."""
    folder = tmp_path_factory.mktemp("checkpoint")
    generator = torch.Generator().manual_seed(0)
    weights, h = {}, {}
    for i, shape in enumerate([(64, 40), (1100, 1000), (64,), (30, 30), (7, 5, 3), (200, 10)]):
        name = f"layers.{i}.weight"
        weights[name] = torch.randn(shape, generator=generator) ** 3
        if i in (3, 4):
            weights[name] = weights[name].bfloat16()
        h[name] = torch.rand(shape, generator=generator) ** 4
    return write(folder, "weights", weights), write(folder, "h", h)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    generator = torch.Generator().manual_seed(1)
    weights = {f"{i}.weight": torch.randn(300, 40, generator=generator) for i in range(5)}
    return write(tmp_path_factory.mktemp("pruned"), "weights", {n: w * (w.abs() > 1.5) for n, w in weights.items()})


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",  # None would still take port 8787
        local_directory=tmp_path_factory.mktemp("workers"),
    ) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster):
    with distributed.Client(cluster) as client:
        yield client


@pytest.fixture
def unseen(tmp_path, monkeypatch):
    """Nothing is known from before."""
    monkeypatch.setattr(statistics, "_tensors", statistics.Recent(statistics.TENSORS_KEPT))


def assert_equal(found, expected):
    assert found.levels == expected.levels
    assert found.ledger == expected.ledger
    assert found.distortion == pytest.approx(expected.distortion, rel=1e-12)
    assert list(found.tensors) == list(expected.tensors)
    for name, tensor in expected.dequantize().items():
        assert torch.equal(found.tensors[name].dequantize(), tensor)


QUANTIZERS = [
    nq.KMeans(9),
    nq.KMeans(6, weighted=False, coding="fixed"),
    nq.Uniform(0.3),
    nq.Uniform(0.4, offset=None, per_layer=True, steps="equal slope"),
    nq.ECSQ(3e-3),
    nq.ECSQ(3e-3, weighted=False, per_layer=True),
]


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=repr)
def test_fits_are_those_of_one_process(checkpoint, client, quantizer):
    paths = checkpoint
    assert_equal(quantizer.fit(nq.select(*paths, executor=client)), quantizer.fit(nq.select(*paths)))


@pytest.mark.parametrize("method", ["kmeans", "uniform", "ecsq"])
def test_pruned_checkpoint_to_a_target(pruned, client, method):
    fit = partial(nq.fit, method=method, ratio=20, progress=False)
    found = fit(nq.select(pruned, executor=client))
    assert found.pruned
    assert_equal(found, fit(nq.select(pruned)))


def test_statistics_are_made_by_workers_once(checkpoint, client, unseen, monkeypatch):
    asked = []

    def counting(self, function, tensors):
        asked.append([t.name for t in tensors])
        return original(self, function, tensors)

    original = Workers.map
    monkeypatch.setattr(Workers, "map", counting)
    selection = nq.select(*checkpoint, executor=client)
    found = statistics.Statistics.of(selection)
    assert statistics.Statistics.of(selection) is found
    assert asked == [[t.name for t in selection], []]
    monkeypatch.undo()
    expected = statistics.Statistics(tuple(map(statistics.TensorStatistics.of, nq.select(*checkpoint))))
    for a, b in zip(found.tensors, expected.tensors, strict=True):
        assert (a.name, a.layer, a.dtype) == (b.name, b.layer, b.dtype)
        assert (a.histogram.marginal.sums == b.histogram.marginal.sums).all()
        assert (a.histogram.joint.key == b.histogram.joint.key).all()


def test_no_weight_travels(checkpoint, client):
    """What a task is sent is small, however many weights its file has."""
    sizes = []

    class Counting:
        def submit(self, function, *arguments, **options):
            sizes.append(len(distributed.protocol.pickle.dumps((function, arguments))))
            return client.submit(function, *arguments, **options)

        def cancel(self, futures):
            client.cancel(futures)

    selection = nq.select(*checkpoint, executor=Counting())
    nq.KMeans(9).fit(selection)
    assert 0 < max(sizes) < 200_000


def names_and_worker(tensors):
    return [t.name for t in tensors], distributed.get_worker().address


def killing(marker, tensors):
    """Ends the worker, the first time it is asked."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return names_and_worker(tensors)
    os._exit(1)


def test_a_worker_that_is_killed_costs_a_retry(checkpoint, client, tmp_path):
    selection = nq.select(*checkpoint, executor=client)
    found = list(selection.workers.map(partial(killing, str(tmp_path / "killed")), selection.tensors))
    assert (tmp_path / "killed").exists()
    assert sorted(name for names, _ in found for name in names) == sorted(t.name for t in selection)


def test_what_a_killed_worker_held_is_found_again(checkpoint, client):
    selection = nq.select(*checkpoint, executor=client)
    held = selection.workers.hold(names_and_worker, selection.tensors)
    expected = list(selection.workers.pick(held, 0))
    address = held[0].result()[1]
    client.run(os._exit, 1, workers=[address], on_error="ignore")
    assert list(selection.workers.pick(held, 0)) == expected


def test_file_that_was_changed_is_refused(tmp_path, client):
    index = write(tmp_path, "weights", {f"{i}.weight": torch.randn(9, 9) for i in range(3)})
    selection = nq.select(index, executor=client)
    save_file({"0.weight": torch.randn(10, 10)}, tmp_path / "weights-0.safetensors")
    with pytest.raises(ValueError, match="select again"):
        list(selection.workers.map(names_and_worker, selection.tensors))


def test_file_is_known_on_another_machine(checkpoint):
    """There a shared folder has another device number, and its own time of the last change of the entry."""
    tensor = nq.select(*checkpoint).tensors[1]
    source = tensor.weight_source
    _device, inode, size, changed, _entry = source.version
    elsewhere = replace(source, version=(99, inode, size, changed, 1))
    found, own = workers._mapped(elsewhere)
    assert own == source
    assert torch.equal(found, tensor.weight)
    with pytest.raises(ValueError, match="select again"):
        workers._mapped(replace(source, version=(99, inode, size, changed + 1, 1)))


def test_what_workers_cannot_read_is_refused(checkpoint, client):
    path, h = checkpoint
    with pytest.raises(ValueError, match="must be in files"):
        nq.select(torch.nn.Linear(3, 3), executor=client)
    given = {t.name: t.sensitivity for t in nq.select(path, h)}
    with pytest.raises(ValueError, match="must be in files"):
        nq.select(path, given, executor=client)
    with pytest.raises(TypeError, match="or None, but a int came"):
        nq.select(path, executor=4)


def test_damped_sensitivities_are_here(checkpoint, client):
    """They are no longer those of the file, so workers are not asked."""
    selection = nq.select(*checkpoint, executor=client)
    assert selection.damped(0.1).workers is None
    assert selection.part(["layers.1"]).workers is selection.workers


def test_cancel(checkpoint, client, unseen):
    def stop(done, total):
        if done >= 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        statistics.Statistics.of(nq.select(*checkpoint, executor=client), stop)
