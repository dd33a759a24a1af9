"""The files around the package agree with each other and with what is installed."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RUNTIME = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = [Requirement(line) for lines in PROJECT["optional-dependencies"].values() for line in lines]
CONDA_NAMES = {"torch": "pytorch-cpu", "matplotlib": "matplotlib-base"}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.!]+", line) for line in pinned), "only lines like name==1.2.3"
    names = [canonicalize_name(line.split("==")[0]) for line in pinned]
    assert len(set(names)) == len(names), "a name is pinned twice"
    return dict(zip(names, (line.split("==")[1] for line in pinned), strict=True))


@pytest.mark.parametrize("requirement", RUNTIME + EXTRAS, ids=str)
def test_every_dependency_is_pinned_to_a_version_it_allows(requirement):
    assert pins()[canonicalize_name(requirement.name)] in requirement.specifier


def test_installed_versions_are_the_tested_ones():
    """In the environment of `make test`; elsewhere newer ones may be what is to be tested."""
    if Path(sys.prefix).resolve() != (ROOT / ".venv").resolve():
        pytest.skip(f"runs in {sys.prefix}, not in the .venv that the Makefile made")
    installed = {canonicalize_name(d.metadata["Name"]): Version(d.version) for d in importlib.metadata.distributions()}
    wrong = {
        name: f"pinned {pin}, installed {installed[name]}"
        for name, pin in pins().items()
        if name in installed and Version(pin).public != installed[name].public
    }
    assert not wrong


def test_binder_installs_the_same_dependencies():
    listed = yaml.safe_load((ROOT / "binder" / "environment.yml").read_text())["dependencies"]
    binder = {requirement.name: requirement.specifier for requirement in map(Requirement, map(conda_to_pip, listed))}
    assert str(binder.pop("python")).lstrip("=") in SpecifierSet(PROJECT["requires-python"])
    assert {"pip", "hatchling"} <= binder.keys(), "postBuild builds the package with them"
    expected = {CONDA_NAMES.get(r.name, r.name): r.specifier for r in RUNTIME}
    assert {name: spec for name, spec in binder.items() if name not in ("pip", "hatchling")} == expected


def conda_to_pip(line: str) -> str:
    return re.sub(r"^([\w-]+)=(\d)", r"\1==\2", line)


@pytest.mark.parametrize("name", [".ci/run", "binder/postBuild", "binder/start"])
def test_script_is_executable_bash(name):
    path = ROOT / name
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", path], check=True)


def test_make_alone_shows_help():
    shown = subprocess.run(["make", "-C", ROOT, "--no-print-directory"], check=True, capture_output=True, text=True)
    assert all(f"make {target}" in shown.stdout for target in ("explore", "test", "bench", "clean"))


@pytest.mark.parametrize(
    ("python", "message"),
    [
        ("/no/such/python", "there is no"),
        ("echo 'Python 3.9.1'; exit 1", "is Python 3.9.1: name a newer one"),
        ('case "$*" in *ensurepip*) exit 1;; esac', "comes without venv and pip"),
    ],
)
def test_make_says_what_is_wrong_with_the_python(tmp_path, python, message):
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "constraints.txt").touch()
    if not python.startswith("/"):
        script = tmp_path / "some python"
        script.write_text(f"#!/bin/sh\n{python}\n")
        script.chmod(0o755)
        python = str(script)
    ran = subprocess.run(["make", "-C", tmp_path, "explore", f"PYTHON={python}"], capture_output=True, text=True)
    assert ran.returncode != 0
    assert message in ran.stderr


class Handler:
    nodelay = False

    def set_nodelay(self, value):
        self.nodelay = value


def test_kernel_messages_are_sent_at_once(monkeypatch):
    from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
    from traitlets.config import PyFileConfigLoader

    config = PyFileConfigLoader(str(ROOT / "nbquant" / "jupyter" / "jupyter_server_config.py")).load_config()
    monkeypatch.setattr(ZMQChannelsWebsocketConnection, "connect", lambda self: "connected")
    connection_class = config.ServerApp.kernel_websocket_connection_class
    connection = object.__new__(connection_class)
    handler = Handler()
    monkeypatch.setattr(connection_class, "websocket_handler", handler)
    assert connection.connect() == "connected"
    assert handler.nodelay is True
