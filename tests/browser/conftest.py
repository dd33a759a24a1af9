"""Fixtures of the browser tests; what they hand out is in lab.py."""

import os
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from .lab import PATIENCE, JupyterLab, Notebook, chromium_arguments, find_chromium, open_notebook, write_scratch


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium; where there is none the test is skipped, but fails in CI."""
    path = find_chromium()
    if path is None:
        reason = "needs Chromium, but none of chromium, chromium-browser, google-chrome is installed"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}: .ci/run installs Debian's chromium")
        pytest.skip(reason)
    expect.set_options(timeout=1000 * PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=chromium_arguments())
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[JupyterLab]:
    """JupyterLab on a copy of notebooks/ (asks for ``browser`` so that nothing starts where that is missing)."""
    server = JupyterLab(tmp_path_factory.mktemp("lab"))
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


@pytest.fixture
def notebook(lab: JupyterLab, browser: Browser) -> Iterator[Callable[..., Notebook]]:
    """Function that opens a notebook: ``notebook("01_explore.ipynb")``, or ``notebook(cells=[...])`` for a scratch one.

    Afterwards, console errors and requests to the outside are failures.
    """
    opened: list[Notebook] = []

    def open_(name: str = "scratch.ipynb", cells: list[str] | None = None, **options: object) -> Notebook:
        if cells is not None:
            write_scratch(lab.root / name, cells)
        opened.append(open_notebook(browser, lab, name, **options))
        return opened[-1]

    try:
        yield open_
        for each in opened:
            each.complaints.assert_none()
    finally:
        for context in list(browser.contexts):
            context.close()
        lab.stop_kernels()
