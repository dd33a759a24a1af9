"""The site of `make docs` builds, and its pages work from the disk with the network off."""

import subprocess
import sys
from pathlib import Path

import pytest

import nbquant as nq

from .lab import Complaints, new_page

ROOT = Path(__file__).resolve().parents[2]
EQUATIONS = "notebooks/03_why_the_hessian.html"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Built without running the notebooks; a warning is an error."""
    pytest.importorskip("sphinx")
    pytest.importorskip("sphinx-mathjax-offline")
    folder = tmp_path_factory.mktemp("docs")
    build = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--doctree-dir", folder / "trees"]
    done = subprocess.run([*build, ROOT / ".docs", folder / "site"], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture
def tab(browser):
    """A page of a phone's width, without a network; afterwards, complaints of the browser are failures."""
    tab, complaints = new_page(browser, (390, 844), offline=True), Complaints()
    complaints.listen(tab)
    yield tab
    complaints.assert_none()
    tab.context.close()


def test_every_public_name_has_an_entry_and_every_notebook_a_page(site):
    page = (site / "api.html").read_text()
    modules = {"course": "course", "plot": "plot", "zoo": "models.zoo"}
    for name in nq.__all__:
        own = f'id="module-nbquant.{modules[name]}"' if name in modules else f'id="nbquant.{name}"'
        assert own in page, name
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        assert (site / "notebooks" / f"{notebook.stem}.html").exists()


def test_every_page_shows_the_version_and_loads_nothing_from_elsewhere(site):
    pages = [path for path in site.rglob("*.html") if "_modules" not in path.parts]
    assert len(pages) > 15
    for path in pages:
        page = path.read_text()
        assert f"nbquant {nq.__version__}" in page, path
        for tag in ("<script", "<link", "<img", "<iframe"):
            assert not [part for part in page.split(tag)[1:] if "//" in part.split(">")[0]], (path, tag)


def test_explorer_is_reached_from_the_first_page_and_the_course(site):
    first = (site / "index.html").read_text()
    assert 'src="explorer.html"' in first
    assert 'href="explorer.html"' in first
    assert 'href="../explorer.html"' in (site / "notebooks" / "01_explore.html").read_text()


def test_checks_of_the_texts_are_not_shown(site):
    assert "claims" in (ROOT / EQUATIONS.replace("html", "ipynb")).read_text()
    assert "The text below states these results" not in (site / EQUATIONS).read_text()


@pytest.mark.browser
def test_equations_are_drawn_without_the_network(site, tab):
    tab.goto((site / EQUATIONS).as_uri())
    tab.wait_for_function("MathJax.startup.promise.then(() => true)")
    equations = tab.locator(".math")
    assert equations.count() > 10
    assert tab.locator(".math mjx-container svg").count() >= equations.count()
    assert tab.locator("mjx-merror, [data-mjx-error]").count() == 0
    assert "\\delta" not in tab.locator("article").inner_text()
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), "runs out of a phone's screen"


@pytest.mark.browser
def test_search_works_from_the_disk(site, browser):
    """Without excerpts, which a browser does not read from the disk, as its console says."""
    tab = new_page(browser, (390, 844), offline=True)
    tab.goto((site / "search.html").as_uri() + "?q=waterfilling")
    tab.wait_for_selector("#search-results li a[href*='api.html#nbquant.waterfilling']")
    tab.context.close()
