"""Texts around the package: links lead somewhere, and the code of the tasks runs. The site: browser/test_site.py."""

import json
import re
from pathlib import Path

import pytest

import nbquant as nq

ROOT = Path(__file__).resolve().parents[1]
GENERATED = {"api.md", "explorer.html"}  # by `make docs`
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(path for path in sorted((ROOT / ".docs").glob("*.md")) if path.name not in GENERATED),
    *sorted((ROOT / "notebooks").glob("*.ipynb")),
]
TITLE, *TASKS = re.split(r"^## ", (ROOT / ".docs" / "tasks.md").read_text(), flags=re.MULTILINE)
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def text_of(path: Path) -> str:
    """Markdown of a page or notebook, without code."""
    text = path.read_text()
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n".join("".join(cell["source"]) for cell in cells)
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """Of the headings, as GitHub and MyST name them."""
    headings = re.findall(r"^#+ (.*)", text_of(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_to_a_file_and_a_heading(path):
    text = text_of(path)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:href|src)="([^"]+)"', text)
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        if not file and anchor.startswith("nbquant."):
            assert anchor.removeprefix("nbquant.") in nq.__all__, link
        elif file not in GENERATED:
            target = path.parent / file if file else path
            if path.parent.name == ".docs" and file.startswith("notebooks/"):
                target = ROOT / file  # they are copied there for a build
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@pytest.fixture(scope="module")
def start():
    """What the first lines of the page define."""
    names = {}
    exec(BLOCK.search(TITLE)[1], names)
    return names


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.splitlines()[0])
def test_task_runs_in_few_lines(task, start, tmp_path, monkeypatch):
    (code,) = BLOCK.findall(task)
    assert len([line for line in code.splitlines() if line]) <= 5
    assert re.search(r"\]\((notebooks/|\w+\.md|#nbquant)", task), "leads to more"
    monkeypatch.chdir(tmp_path)
    exec(code, dict(start))


def test_each_plan_for_lecturers_takes_ninety_minutes():
    plans = re.split(r"^### ", (ROOT / ".docs" / "lecturers.md").read_text(), flags=re.MULTILINE)[1:]
    minutes = [sum(map(int, re.findall(r"^\| (\d+) \|", plan, re.MULTILINE))) for plan in plans]
    assert minutes == [90, 90, 90]
