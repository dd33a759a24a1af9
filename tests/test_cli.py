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

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import nbquant as nq
from nbquant import cli
from nbquant.models.zoo import CHECKPOINTS
from nbquant.widgets.state import ExplorerState

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
    assert max(len(line.replace(str(out), "")) for line in text.splitlines()) < 150


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


def test_accuracy_that_may_be_lost_is_a_target(capsys, small, tmp_path):
    (tmp_path / "check.py").write_text(
        "import torch\nfrom safetensors.torch import load_file\nfrom torch import nn\n"
        "model = nn.Sequential(nn.Linear(60, 50), nn.BatchNorm1d(50), nn.Linear(50, 10)).eval()\n"
        f"model.load_state_dict(load_file({str(small)!r}))\n"
        "torch.manual_seed(1)\nx = torch.randn(400, 60)\npair = model, [(x, model(x).argmax(1))]\n"
    )
    out = tmp_path / "m.nbq"
    code, _, told = run(capsys, "quantize", small, "--accuracy-loss", 5, "--evaluate", f"{tmp_path}/check.py:pair",
                        "-o", out)  # fmt: skip
    assert code == 0
    found = re.fullmatch(
        r"(\S+) ± \S+ points of accuracy lost on 400 labels; at most 5 with a confidence of .*\n", told
    )
    assert found
    assert 0 <= float(found[1]) <= 5
    model = nn.Sequential(nn.Linear(60, 50), nn.BatchNorm1d(50), nn.Linear(50, 10)).eval()
    model.load_state_dict(load_file(small))
    torch.manual_seed(1)
    x = torch.randn(400, 60)
    applied = nq.load(out).apply(model)
    lost = 100 * float((applied(x).argmax(1) != model(x).argmax(1)).double().mean())
    assert lost == pytest.approx(float(found[1]), abs=0.006)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["quantize", "{small}", "-o", "{dir}/m.nbq"],
            2,
            "Exactly one target of ecsq is required: --ratio, --rate, --levels, --lmbda, --accuracy-loss.",
        ),
        (["quantize", "{small}", "--accuracy-loss", 1, "-o", "{dir}/m.nbq"], 2, "belong together: give both"),
        (["quantize", "{small}", "--accuracy-loss", 1, "--ratio", 4, "-o", "{dir}/m.nbq"], 2, "Exactly one target of"),
        (
            ["quantize", "{small}", "--accuracy-loss", 1, "--evaluate", "lenet5-fashio", "-o", "{dir}/m.nbq"],
            2,
            "did you mean 'lenet5-fashion'",
        ),
        (
            ["quantize", "{small}", "--accuracy-loss", 1, "--evaluate", "json:lods", "-o", "{dir}/m.nbq"],
            2,
            "json has no 'lods': did you mean 'loads'",
        ),
        (
            ["quantize", "{small}", "--accuracy-loss", 1, "--evaluate", "{dir}/no.py:pair", "-o", "{dir}/m.nbq"],
            2,
            "no.py cannot be imported",
        ),
        (["quantize", "{small}", "--lmbda", 1e-6, "--step", 0.1, "-o", "{dir}/m.nbq"], 2, "Exactly one target of"),
        (
            ["quantize", "{small}", "--step", 0.1, "-o", "{dir}/m.nbq"],
            1,
            "step is a parameter of uniform, but the method is",
        ),
        (["quantize", "{small}", "--ratio", 4, "--rate", 3, "-o", "{dir}/m.nbq"], 2, "Exactly one target of"),
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
    import nbformat  # takes seconds, which only this test needs

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
    source = "".join(json.loads((tmp_path / "explore-lenet5-fashion.ipynb").read_text())["cells"][0]["source"])
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


@pytest.mark.parametrize(
    "options", [("--method", "trellis"), ("--method", "feedback"), ("--method", "trellis", "--joint")]
)
def test_methods_that_run_need_no_data(capsys, small, options):
    out = small.with_suffix(".nbq")
    assert run(capsys, "quantize", small, "-o", out, "--ratio", 6, *options) == (0, "", "")
    stored = nq.load(out)
    assert stored.compression_ratio >= 6
    assert stored.recipe["quantizer"]["method"] == options[1]
    assert stored.recipe["quantizer"]["coding"] == "context"
    assert stored.recipe["quantizer"].get("per_layer") == (None if options[1] == "feedback" else len(options) == 2)


def test_feedback_of_a_checkpoint_is_as_good_as_the_trellis(capsys, small):
    errors = {}
    for method in ("trellis", "feedback"):
        out, back = small.with_suffix(".nbq"), small.with_name("back.safetensors")
        assert run(capsys, "quantize", small, "-o", out, "--rate", 3, "--method", method)[0] == 0
        assert run(capsys, "decompress", out, "-o", back)[0] == 0
        before, after = load_file(small), load_file(back)
        errors[method] = sum(float((after[name] - before[name]).square().sum()) for name in ("0.weight", "2.weight"))
    assert errors["feedback"] == pytest.approx(errors["trellis"], rel=0.02)
    assert "works like trellis" in " ".join(run(capsys, "quantize", "--help")[1].split())


def test_what_is_left_out_is_told(capsys, tmp_path):
    path, out = tmp_path / "m.safetensors", tmp_path / "m.nbq"
    save_file({"norm.weight": torch.rand(128), "fc.weight": torch.rand(64, 32).to(torch.float8_e4m3fn)}, path)
    code, told, error = run(capsys, "quantize", path, "-o", out, "--rate", 4)
    assert (code, told) == (0, "")
    assert "Not quantized, stored unchanged: 1 tensor in F8_E4M3 with 2,048 of 2,176 weights (94.1 %)." in error


def test_metadata_are_shown(capsys, tmp_path):
    path, out = tmp_path / "m.safetensors", tmp_path / "m.nbq"
    save_file({"w": torch.rand(60, 40)}, path, metadata={"title": "mine\x1b[2J", "format": "pt"})
    run(capsys, "quantize", path, "-o", out, "--rate", 4)
    assert "  metadata: 'title', 'format'" in run(capsys, "inspect", out)[1].replace(
        "'format', 'title'", "'title', 'format'"
    )
    assert json.loads(run(capsys, "inspect", out, "--json")[1])["metadata"] == {"title": "mine\x1b[2J", "format": "pt"}


def test_parameters_of_the_model_itself_are_named(capsys, tmp_path):
    path, out = tmp_path / "m.safetensors", tmp_path / "m.nbq"
    save_file({"token": torch.rand(60, 40)}, path)
    run(capsys, "quantize", path, "-o", out, "--rate", 4)
    assert re.search(r"token +\(model\)", run(capsys, "inspect", out)[1])


ONE_AFTER_THE_OTHER = """
import json, sys
from nbquant.cli import main

for arguments in json.loads(sys.argv[1]):
    sys.argv = ["nbquant", *arguments]
    try:
        main()
    except SystemExit as ended:
        sys.stderr.write(f"\\x1e{ended.code or 0}\\x1e")
    sys.stdout.write("\\x1e")
"""


def in_a_shell(encoding, *commands):
    """Exit code, standard output and error of each command, on a terminal of that encoding, decoded strictly."""
    environment = os.environ | {"PYTHONIOENCODING": encoding, "COLUMNS": "100"}
    asked = json.dumps([[str(argument) for argument in command] for command in commands])
    command = [sys.executable, "-c", ONE_AFTER_THE_OTHER, asked]
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    told, errors = done.stdout.decode(encoding).split("\x1e"), done.stderr.decode(encoding).split("\x1e")
    return list(zip(map(int, errors[1::2]), told, errors[::2], strict=False))


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_terminals_that_know_few_letters(tmp_path, encoding):
    path, out, back = tmp_path / "m.safetensors", tmp_path / "m.nbq", tmp_path / "back.safetensors"
    save_file({"λ.ünit→": torch.randn(60, 40)}, path, metadata={"日本": "…"})
    pages = ((), ("quantize",), ("inspect",), ("decompress",), ("explore",), ("app",))
    ended = in_a_shell(
        encoding,
        *((*page, "--help") for page in pages),
        ("quantize", path, "-o", out, "--method", "ecsq", "--ratio", 6),
        ("inspect", out),
        ("inspect", out, "--json"),
        ("decompress", out, "-o", back),
        ("quantize", path, "-o", out, "--rate", 0.001),
        ("quantize", path, "-o", out, "--layers", "λ→", "--rate", 3),
    )
    helped, ended = ended[: len(pages)], ended[len(pages) :]
    assert [(code, error) for code, _, error in helped] == [(0, "")] * len(pages)
    assert all(told.isascii() for _, told, _ in helped)
    assert [code for code, _, _ in ended] == [0, 0, 0, 0, 1, 1]
    knows = encoding == "utf-8"
    assert ("λ.ünit→" if knows else "lambda.") in ended[1][1]
    assert json.loads(ended[2][1])["metadata"] == {"日本": "…"}
    assert all(error.startswith("Error: ") for _, _, error in ended[4:])
    assert ("λ→" if knows else "lambda->") in ended[5][2]


def test_the_package_is_a_command_too():
    done = subprocess.run([sys.executable, "-m", "nbquant", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"nbquant, version {nq.__version__}"


@pytest.mark.parametrize("letter", ["x", "ü", "漢", "𝛌"])
def test_names_may_be_as_long_as_the_file_system_has_them(capsys, tmp_path, monkeypatch, letter):
    monkeypatch.chdir(tmp_path)

    def named(end):
        return tmp_path / (letter * ((255 - len(end)) // len(letter.encode())) + end)

    before, small, after = named(".safetensors"), named(".nbq"), named("b.safetensors")
    save_file({"w": torch.randn(60, 40)}, tmp_path / "m.safetensors")
    (tmp_path / "m.safetensors").rename(before)
    assert run(capsys, "quantize", before, "-o", small, "--rate", 4) == (0, "", "")
    assert run(capsys, "inspect", small)[0] == 0
    assert run(capsys, "decompress", small, "-o", after) == (0, "", "")
    state = ExplorerState(before, ratio=4.0)
    state.save_session(named(".json"))
    assert state.error == ""
    state.restore(named(".json"))
    assert state.error == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        path.name for path in (before, small, after, named(".json"))
    )


def test_notebooks_of_long_names_are_apart(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "execve", lambda *_: None)
    for end in "ab":
        path = tmp_path / ("ü" * 120 + end + ".safetensors")
        save_file({"w": torch.randn(6, 4)}, tmp_path / "m.safetensors")
        (tmp_path / "m.safetensors").rename(path)
        monkeypatch.setattr(sys, "argv", ["nbquant", "explore", str(path)])
        with pytest.raises(SystemExit):
            cli.main()
    notebooks = list(tmp_path.glob("explore-*.ipynb"))
    assert len(notebooks) == 2
    assert all(len(path.name.encode()) <= 220 for path in notebooks)
