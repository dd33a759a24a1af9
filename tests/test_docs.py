"""The site of `make docs` builds, with a reference of all that is public and every notebook."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import nbquant as nq

ROOT = Path(__file__).resolve().parents[1]


def test_every_public_name_has_an_entry_and_warnings_are_errors(tmp_path):
    pytest.importorskip("sphinx")
    build = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--doctree-dir", tmp_path / "trees"]
    done = subprocess.run([*build, ROOT / ".docs", tmp_path / "site"], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "api.html").read_text()
    assert 'src="explorer.html"' in (tmp_path / "site" / "index.html").read_text()
    assert (tmp_path / "site" / "lecturers.html").exists()
    modules = {"course": "course", "plot": "plot", "zoo": "models.zoo"}
    for name in nq.__all__:
        own = f'id="module-nbquant.{modules[name]}"' if name in modules else f'id="nbquant.{name}"'
        assert own in page, name
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        assert (tmp_path / "site" / "notebooks" / f"{notebook.stem}.html").exists()


def test_each_plan_for_lecturers_takes_ninety_minutes():
    plans = re.split(r"^### ", (ROOT / ".docs" / "lecturers.md").read_text(), flags=re.MULTILINE)[1:]
    minutes = [sum(map(int, re.findall(r"^\| (\d+) \|", plan, re.MULTILINE))) for plan in plans]
    assert minutes == [90, 90, 90]
