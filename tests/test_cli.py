"""The command line, in this process; what a shell sees of it in one of its own."""

import errno
import importlib.util
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import nbquant as nq
from nbquant import cli
from nbquant.models.zoo import CHECKPOINTS

LENET = CHECKPOINTS / "lenet5-fashion.safetensors"


def run(capsys, *arguments):
    """Exit code, standard output, standard error."""
    before = sys.argv
    sys.argv = ["nbquant", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        sys.argv = before
    told = capsys.readouterr()
    return ended.value.code or 0, told.out, told.err


@pytest.fixture
def small(tmp_path):
    """A checkpoint of a few thousand weights."""
    torch.manual_seed(0)
    path = tmp_path / "small.safetensors"
    state = nn.Sequential(nn.Linear(60, 50), nn.BatchNorm1d(50), nn.Linear(50, 10)).state_dict()
    save_file(state, path)
    return path


def quantized(capsys, small, *options):
    out = small.with_suffix(".nbq")
    assert run(capsys, "quantize", small, "-o", out, "--ratio", 4, *options) == (0, "", "")
    return out


def test_lenet_there_and_back(capsys, tmp_path):
    model, data = nq.zoo.load("lenet5-fashion")
    h = nq.sensitivity(model, data.calibration.take(100), method="gauss_newton_sampled", damping=0.1, progress=False)
    nq.save_sensitivity(h, tmp_path / "h.safetensors")
    out, back = tmp_path / "lenet.nbq", tmp_path / "back.safetensors"
    command = ("quantize", LENET, "--sensitivity", tmp_path / "h.safetensors", "--method", "uniform", "--ratio", 20)
    assert run(capsys, *command, "-o", out) == (0, "", "")
    assert 20 <= nq.load(out).compression_ratio < 20.2
    assert run(capsys, "decompress", out, "-o", back) == (0, "", "")
    selection = nq.select(LENET, tmp_path / "h.safetensors")
    expected = nq.fit(selection, "uniform", ratio=20, file_of=LENET, progress=False).dequantize()
    restored = load_file(back)
    assert restored.keys() == expected.keys()
    assert all(torch.equal(restored[name], expected[name]) for name in expected)
    model.load_state_dict(restored)


def test_a_folder_of_shards_comes_back_as_one_file(capsys, small, tmp_path):
    state = load_file(small)
    folder = tmp_path / "shards"
    folder.mkdir()
    halves = {"a.safetensors": list(state)[:3], "b.safetensors": list(state)[3:]}
    for file, names in halves.items():
        save_file({name: state[name] for name in names}, folder / file)
    index = {"weight_map": {name: file for file, names in halves.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    out = tmp_path / "m.nbq"
    assert run(capsys, "quantize", folder, "--levels", 4, "--method", "kmeans", "--layers", "0", "-o", out)[0] == 0
    assert run(capsys, "decompress", out, "-o", tmp_path / "back.safetensors")[0] == 0
    back = load_file(tmp_path / "back.safetensors")
    assert back.keys() == state.keys()
    assert {name for name in state if not torch.equal(back[name], state[name])} == {"0.weight", "0.bias"}
    assert len(torch.unique(torch.cat([back["0.weight"].flatten(), back["0.bias"]]))) <= 4


def test_inspect_tells_where_every_byte_goes(capsys, small):
    out = quantized(capsys, small, "--layers", "0", "--layers", "2.weight", "--method", "kmeans", "--per-layer")
    code, text, _ = run(capsys, "inspect", out, "--json")
    told = json.loads(text)
    assert (code, told["path"], told["size"]) == (0, str(out), out.stat().st_size)
    assert sum(told["ledger"].values()) == 8 * told["size"]
    assert told["source_size"] == sum(t.numel() * t.element_size() for t in load_file(small).values())
    assert told["compression_ratio"] == pytest.approx(told["source_size"] / told["size"])
    assert {t["name"] for t in told["tensors"]} == set(load_file(small))
    assert told["recipe"]["quantizer"]["method"] == "kmeans"
    code, text, _ = run(capsys, "inspect", out)
    assert code == 0
    for word in ("small.nbq", f"{told['size']:,} bytes", "kmeans", "payload", "unquantized", "1.running_mean"):
        assert word in text
    assert max(map(len, text.splitlines())) < 150


def test_options_reach_the_fit(capsys, small, tmp_path):
    out = tmp_path / "m.nbq"
    run(capsys, "quantize", small, "--rate", 3, "--coding", "fixed", "--plain", "--method", "kmeans", "--pinned-zero",
        "-o", out)  # fmt: skip
    expected = nq.fit(nq.select(small), "kmeans", rate=3, coding="fixed", weighted=False, pinned_zero=True)
    assert nq.load(out).quantized().quantizer == expected.quantizer
    assert torch.equal(nq.load(out).tensor("0.weight"), expected.dequantize()["0.weight"])


@pytest.mark.parametrize(("method", "parameter", "value"), [("uniform", "step", 0.03), ("ecsq", "lmbda", 1e-5)])
def test_a_methods_own_parameter_is_a_target(capsys, small, tmp_path, method, parameter, value):
    out, back = tmp_path / "m.nbq", tmp_path / "back.safetensors"
    assert run(capsys, "quantize", small, "--method", method, f"--{parameter}", value, "-o", out) == (0, "", "")
    assert run(capsys, "decompress", out, "-o", back)[0] == 0
    assert getattr(nq.load(out).quantized().quantizer, parameter) == value
    expected = nq.fit(nq.select(small), method, progress=False, **{parameter: value}).dequantize()
    restored = load_file(back)
    assert all(torch.equal(restored[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["quantize", "{small}", "-o", "{dir}/m.nbq"], 2, "Exactly one of --ratio, --rate, --levels, --lmbda and"),
        (["quantize", "{small}", "--lmbda", 1e-6, "--step", 0.1, "-o", "{dir}/m.nbq"], 2, "Exactly one of"),
        (
            ["quantize", "{small}", "--step", 0.1, "-o", "{dir}/m.nbq"],
            1,
            "step is a parameter of uniform, but the method is",
        ),
        (["quantize", "{small}", "--ratio", 4, "--rate", 3, "-o", "{dir}/m.nbq"], 2, "Exactly one of"),
        (["quantize", "{small}", "--ratio", 4], 2, "Missing option '-o'"),
        (["quantize", "{small}", "--ratio", 4, "--damping", 1, "-o", "{dir}/m.nbq"], 2, "--sensitivity"),
        (["quantize", "{dir}/none", "--ratio", 4, "-o", "{dir}/m.nbq"], 2, "does not exist"),
        (["quantize", "{small}", "--method", "best", "--ratio", 4, "-o", "{dir}/m.nbq"], 2, "'ecsq'"),
        (["quantize", "{small}", "--ratio", 4000, "-o", "{dir}/m.nbq"], 1, "ratio 4000 is out of reach"),
        (["quantize", "{small}", "--ratio", 4, "--layers", "fc9", "-o", "{dir}/m.nbq"], 1, "no layer or parameter"),
        (["quantize", "{small}", "--ratio", 4, "-o", "{dir}/m.bin"], 1, ".nbq"),
        (["quantize", "{small}", "--ratio", 4, "-o", "{dir}/none/m.nbq"], 1, "a folder that exists is required"),
        (["quantize", "{text}", "--ratio", 4, "-o", "{dir}/m.nbq"], 1, "safetensors"),
        (["inspect", "{text}"], 3, ""),
        (["inspect", "{small}"], 3, ""),
        (["decompress", "{text}", "-o", "{dir}/m.safetensors"], 3, ""),
        (["decompress", "{nbq}", "-o", "{dir}/m.bin"], 1, ".safetensors"),
        (["unknown"], 2, "No such command"),
    ],
)
def test_mistakes_end_with_a_line_and_a_code_and_write_nothing(capsys, small, tmp_path, arguments, code, message):
    (tmp_path / "text.safetensors").write_text("no tensors")
    places = {"small": small, "dir": tmp_path, "text": tmp_path / "text.safetensors"}
    if "{nbq}" in arguments:
        places["nbq"] = quantized(capsys, small)
    before = set(os.listdir(tmp_path))
    ended, out, err = run(capsys, *(str(a).format(**places) for a in arguments))
    assert (ended, out) == (code, "")
    assert message in re.sub(r"\s+", " ", err)
    assert "Traceback" not in err
    assert set(os.listdir(tmp_path)) == before


def test_a_full_disk_and_an_interrupt_keep_the_old_file(capsys, small, monkeypatch):
    out = quantized(capsys, small)
    before = out.read_bytes()
    for error, code in ((OSError(errno.ENOSPC, "No space left on device"), 1), (KeyboardInterrupt(), 130)):

        def fail(*args, error=error):
            raise error

        monkeypatch.setattr(os, "fsync", fail)
        ended, _, err = run(capsys, "quantize", small, "--ratio", 3, "-o", out)
        assert ended == code
        assert err.strip().startswith("Error: ")
        assert (out.read_bytes(), os.listdir(out.parent)) == (before, os.listdir(out.parent))
        assert not [name for name in os.listdir(out.parent) if name.endswith(".partial")]


def test_explore_opens_a_notebook_that_it_does_not_overwrite(capsys, small, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(os, "execve", lambda *arguments: started.append(arguments))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.chdir(tmp_path)
    run(capsys, "explore", small, "--no-browser", "--port=9000")
    notebook = tmp_path / "explore-small.ipynb"
    nbformat.validate(nbformat.read(notebook, 4))
    assert f"nq.explore({str(small)!r})" in notebook.read_text().replace('\\"', '"')
    (program, command, environment), *_ = started
    assert (program, command[0]) == (sys.executable, sys.executable)
    assert command[1:] == ["-m", "jupyterlab", "explore-small.ipynb", "--no-browser", "--port=9000"]
    assert (Path(environment["JUPYTER_CONFIG_PATH"].split(os.pathsep)[0]) / "jupyter_server_config.py").is_file()
    notebook.write_text("mine")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    run(capsys, "explore", small)
    assert started[-1][1][3:] == ["explore-small.ipynb", "--allow-root"]
    assert notebook.read_text() == "mine"
    run(capsys, "explore", "--no-browser")
    assert started[-1][1][3:] == ["explore-lenet5-fashion.ipynb", "--allow-root", "--no-browser"]
    source = nbformat.read(tmp_path / "explore-lenet5-fashion.ipynb", 4).cells[0].source
    assert 'nq.zoo.load("lenet5-fashion")' in source
    compile(source, "cell", "exec")


def test_app_serves_the_explorer_on_this_machine_with_a_token(capsys, small, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(os, "execve", lambda *arguments: started.append(arguments))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.chdir(tmp_path)
    run(capsys, "app", "small.safetensors", "--no-browser", "--port=9000", "--theme", "dark")
    (program, command, environment), *_ = started
    assert (program, *command[:2]) == (sys.executable, sys.executable, "-P")
    assert all(Path(file).is_file() for file in command[2:4])
    assert {"--token", "--Voila.ip=127.0.0.1", "--port=9000", "--theme=dark", "--no-browser"} <= set(command)
    ours = Path(environment["JUPYTER_PATH"].split(os.pathsep)[0])
    assert (ours / "voila" / "templates" / "nbquant" / "index.html.j2").is_file()
    asked = {"checkpoint": str(small), "sensitivity": None, "model": "lenet5-fashion", "folder": str(tmp_path)}
    assert json.loads(environment["NBQUANT_APP"]) == asked
    run(capsys, "app", "--model", "resnet8-fashion")
    assert json.loads(started[-1][2]["NBQUANT_APP"]) == asked | {"checkpoint": None, "model": "resnet8-fashion"}
    assert "--no-browser" not in started[-1][1]
    assert list(tmp_path.iterdir()) == [small]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{small}", "--model", "lenet5-fashion"], 2, "not both"),
        (["--sensitivity", "{small}"], 2, "of a CHECKPOINT"),
        (["--model", "gpt"], 2, "'lenet5-fashion'"),
        (["--port", "0"], 2, "1<=x<=65535"),
        (["{small}"], 1, "pip install 'nbquant[app]'"),
    ],
)
def test_app_refuses_in_words(capsys, small, monkeypatch, arguments, code, message):
    monkeypatch.setattr(os, "execve", lambda *arguments: pytest.fail("started"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    ended, _, err = run(capsys, "app", *(argument.format(small=small) for argument in arguments))
    assert ended == code
    assert message in err


def test_on_a_terminal_it_shows_progress_and_completes_names(small, tmp_path):
    """One process of its own for each: as the installed program, with a terminal for its errors."""
    program = Path(sys.executable).parent / "nbquant"
    if not program.exists():
        pytest.skip(f"nbquant is not installed as a program beside {sys.executable}")
    leader, follower = pty.openpty()
    command = [program, "quantize", small, "--ratio", "4", "-o", tmp_path / "m.nbq"]
    ran = subprocess.run(command, stderr=follower, stdout=subprocess.PIPE, check=True)
    os.close(follower)
    told = os.read(leader, 100_000).decode()
    os.close(leader)
    assert ran.stdout == b""
    assert "times smaller" in told
    words = {"COMP_WORDS": "nbquant quantize --met", "COMP_CWORD": "2", "_NBQUANT_COMPLETE": "bash_complete"}
    found = subprocess.run([program], env=os.environ | words, capture_output=True, text=True, check=True)
    assert "--method" in found.stdout
