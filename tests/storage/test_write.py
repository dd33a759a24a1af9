"""Saving: what fits, what does not, and that nothing half-written is left whatever happens."""

import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
import torch
from torch import nn

import nbquant as nq
from nbquant.progress import Cancelled
from nbquant.storage import write
from tests.storage.cases import Tied, network, quantize

OLD = b"the old file"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "m.nbq"
    path.write_bytes(OLD)
    return path


def untouched(path):
    assert path.read_bytes() == OLD
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_same_bytes_for_the_same_input(tmp_path):
    for name in ("a", "b"):
        model = network(0.3)
        nq.save(quantize(model), tmp_path / f"{name}.nbq", model, progress=False)
    assert (tmp_path / "a.nbq").read_bytes() == (tmp_path / "b.nbq").read_bytes()


def test_another_file_is_replaced(path):
    nq.save(quantize(network()), str(path), network(), progress=False)
    assert nq.load(path).names == ("0.weight", "0.bias", "2.weight", "2.bias")


def test_progress_counts_and_cancels(path):
    model = Tied()
    quantized = nq.KMeans(3).fit(nq.select(model, layers="embed"))
    seen = []

    def cancel(done, total):
        seen.append((done, total))
        if done == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        nq.save(quantized, path, model, progress=cancel)
    untouched(path)
    assert [done for done, _ in seen] == [0, 1, 2, 3]
    nq.save(quantized, path, model, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (10, 10)  # a block, three other parameters, three statistics of the norm, three buffers


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_whatever_happens_in_the_middle_leaves_the_old_file(path, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(write, "encode_block", fail)
    with pytest.raises(error):
        nq.save(quantize(network()), path, network(), progress=False)
    untouched(path)


CHILD = """
import resource, signal, sys, os
import torch
import nbquant as nq
from nbquant.storage import write
from tests.storage.cases import network

model = network()
model.register_buffer("large", torch.zeros(100_000))
quantized = nq.KMeans(4).fit(nq.select(model))
{}
try:
    nq.save(quantized, sys.argv[1], model, progress=False)
except OSError as error:
    print(error.errno, error)
    sys.exit(7)
"""


def child(path, what):
    script = CHILD.format(textwrap.dedent(what))
    return subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, cwd=os.getcwd())


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_a_full_disk(path):
    """A limit of the size of files, which acts as a full disk does once its signal is ignored."""
    ran = child(
        path,
        """
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        """,
    )
    assert ran.returncode == 7, ran.stderr
    assert "could not be written" in ran.stdout
    assert "the existing file is unchanged" in ran.stdout
    untouched(path)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_killed_in_the_middle(path):
    ran = child(
        path,
        """
        whole = write._Checked.end
        def end(self):
            self._file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        write._Checked.end = end
        """,
    )
    assert ran.returncode == -signal.SIGKILL
    assert path.read_bytes() == OLD
    left = [p for p in path.parent.iterdir() if p != path]
    assert all(p.name.endswith(".partial") for p in left)  # nobody was there to remove it


def test_a_read_only_folder(path):
    path.parent.chmod(0o500)
    try:
        if os.access(path.parent, os.W_OK):
            pytest.skip("permissions do not bind this user, who is root")
        with pytest.raises(OSError, match="could not be written"):
            nq.save(quantize(network()), path, network(), progress=False)
    finally:
        path.parent.chmod(0o700)
    untouched(path)


def test_a_folder_that_may_not_be_written_to(path, monkeypatch):
    """As a read-only file system says it, which binds root too."""
    from pathlib import Path

    def refuse(self, mode="r", *rest):
        raise OSError(30, "Read-only file system", str(self))

    quantized = quantize(network())
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(OSError, match=r"Read-only file system.*is unchanged"):
        nq.save(quantized, path, network(), progress=False)
    monkeypatch.undo()
    untouched(path)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="a folder that exists is required"):
        nq.save(quantize(network()), tmp_path / "no" / "m.nbq", network(), progress=False)


@pytest.mark.parametrize("name", ["m", "m.safetensors", "m.nbq.gz", ".nbq"])
def test_names_end_in_nbq(tmp_path, name):
    with pytest.raises(ValueError, match=r"must end in \.nbq"):
        nq.save(quantize(network()), tmp_path / name, network(), progress=False)
    assert not list(tmp_path.iterdir())


def without(name):
    model = network()
    delattr(model[0], name)
    return model


class Extra(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def get_extra_state(self):
        return {"any": "thing"}

    def set_extra_state(self, state):
        pass


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (nn.Sequential(nn.Linear(12, 10)), ValueError, "'2.weight', '2.bias' are not among its 2"),
        (nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 5)), ValueError, r"\(10, 12\) and type F32 in"),
        (network(dtype=torch.float16), ValueError, "but has .* and F16"),
        (3, TypeError, "but a int came"),
        ("none.safetensors", FileNotFoundError, "there is no file"),
    ],
)  # fmt: skip
def test_models_that_do_not_fit(path, model, error, message):
    with pytest.raises(error, match=message):
        nq.save(quantize(network()), path, model, progress=False)
    untouched(path)


def test_a_model_is_required_where_there_is_more_to_store(path):
    quantized = nq.KMeans(2).fit(nq.select(network(), layers="0"))
    with pytest.raises(ValueError, match="the model is required for the 220 bytes"):
        nq.save(quantized, path, progress=False)
    untouched(path)


def test_what_cannot_be_stored(path):
    model = Extra()
    with pytest.raises(ValueError, match="'_extra_state' is a dict: only tensors"):
        nq.save(nq.KMeans(2).fit(nq.select(model)), path, model, progress=False)
    model = network()
    model.register_buffer("sparse", torch.eye(3).to_sparse())
    with pytest.raises(ValueError, match="'sparse' is sparse"):
        nq.save(quantize(network()), path, model, progress=False)
    with pytest.raises(TypeError, match=r"the result of nbquant\.fit is required"):
        nq.save(network(), path, progress=False)
    untouched(path)


def test_selections_that_contradict_themselves(path):
    quantized = quantize(network())
    book = quantized.codebooks["all"]
    name, tensor = next(iter(quantized.tensors.items()))
    for changed, message in [
        (replace(quantized, codebooks={"all": replace(book, value=book.value * torch.inf)}), "finite|must be those"),
        (replace(quantized, codebooks={"all": replace(book, value=book.value + 1)}), "must be those of its group"),
        (replace(quantized, codebooks={"a": book, "b": book}), "a codebook for the layer '0'"),
        (
            replace(quantized, tensors=quantized.tensors | {name: replace(tensor, assignment=tensor.assignment[1:])}),
            "120 indices are required",
        ),
        (
            replace(quantized, tensors=quantized.tensors | {name: replace(tensor, assignment=tensor.assignment + 99)}),
            "symbols must be 0 to",
        ),
        (
            replace(
                quantized, tensors=quantized.tensors | {name: replace(tensor, assignment=tensor.assignment * 0 - 1)}
            ),
            "its ledger has no positions",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            nq.save(changed, path, network(), progress=False)
    untouched(path)


def test_a_checkpoint_that_changed_since(path, tmp_path):
    from safetensors.torch import save_file

    source = tmp_path / "m.safetensors"
    save_file({"w.weight": torch.randn(5, 4), "other": torch.zeros(9)}, source)
    quantized = nq.KMeans(2).fit(nq.select(source, layers="w"))
    from nbquant.storage.source import unquantized_of

    rest = unquantized_of(source, quantized)
    save_file({"w.weight": torch.randn(5, 4), "other": torch.zeros(90)}, source)
    with pytest.raises(ValueError, match="must not change while 'other' is read"):
        list(rest.pieces(0))
