"""Real servers and a real Chromium, for tests that use the notebook as a person does."""

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from playwright.sync_api import Browser, Locator, Page

ROOT = Path(__file__).resolve().parents[2]
HERE = ("127.0.0.1", "localhost", "[::1]", "::1")
# anywidget says so of every widget whose code is not loaded after 2 s, and goes on: a busy machine, not an error. A
# widget that really fails says why, and draws nothing.
SLOW = "[anywidget] Failed to initialize model."
PATIENCE = 120.0  # s that anything may take on a busy machine
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}


def find_chromium() -> str | None:
    """Path of an installed Chromium, if there is one."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)


def chromium_arguments() -> list[str]:
    """Switches that keep Chromium quiet, and keep it from reaching anything but this machine."""
    arguments = [
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    ]
    # Chromium's sandbox refuses to run as root, as containers do.
    return [*arguments, "--no-sandbox"] if os.geteuid() == 0 else arguments


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def own_environment(directory: Path) -> dict[str, str]:
    """Environment of a server whose home, settings and caches are below ``directory``, and nobody else's."""
    home = directory / "home"
    home.mkdir()
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "IPYTHON"))}
    return outside | {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "XDG_DATA_HOME": str(home / ".local" / "share"),
        "JUPYTER_CONFIG_DIR": str(directory / "config"),
        "JUPYTER_DATA_DIR": str(directory / "data"),
        "JUPYTER_RUNTIME_DIR": str(directory / "runtime"),
        "PYTHONUNBUFFERED": "1",
    }


def start(command: list[str], environment: dict[str, str], directory: Path, log: Path) -> subprocess.Popen:
    """Start a server that writes what it says to ``log``."""
    with log.open("wb") as file:
        return subprocess.Popen(
            command, env=environment, cwd=directory, stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )


def stop(process: subprocess.Popen) -> None:
    """End a server and its kernels."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class JupyterLab:
    """A JupyterLab server of its own, on a copy of the notebooks; a Notebook 7 where ``module`` is "notebook"."""

    def __init__(self, directory: Path, module: str = "jupyterlab") -> None:
        self.root = directory / "notebooks"
        shutil.copytree(ROOT / "notebooks", self.root, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
        self.settings = directory / "settings"
        self.log = directory / "server.log"
        port = free_port()
        self.token = secrets.token_hex(16)
        self.url = f"http://127.0.0.1:{port}"
        config = directory / "config"
        (config / "labconfig").mkdir(parents=True)
        # Its question about news would cover the notebook.
        (config / "labconfig" / "page_config.json").write_text(
            json.dumps({"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}})
        )
        environment = own_environment(directory) | {
            "JUPYTER_CONFIG_PATH": str(ROOT / "nbquant" / "jupyter"),
            "JUPYTERLAB_SETTINGS_DIR": str(self.settings),
            "JUPYTERLAB_WORKSPACES_DIR": str(directory / "workspaces"),
        }
        command = [
            *(sys.executable, "-m", module, "--no-browser", "--allow-root", "--expose-app-in-browser"),
            *("--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"),
            *(f"--ServerApp.root_dir={self.root}", f"--IdentityProvider.token={self.token}"),
        ]
        self.process = start(command, environment, directory, self.log)

    def wait_until_ready(self, timeout: float = PATIENCE) -> None:
        """Return when the server answers; raise with the end of its log when it does not within ``timeout`` s."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.request("/api/status")
            except OSError:
                time.sleep(0.2)
            else:
                return
        raise RuntimeError(f"the server did not answer within {timeout} s; its log ends:\n{self.tail()}")

    def request(self, path: str, method: str = "GET") -> bytes:
        """Body of the server's answer."""
        request = urllib.request.Request(
            self.url + path, method=method, headers={"Authorization": f"token {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.read()

    def tail(self, characters: int = 4000) -> str:
        """End of the server's log."""
        return self.log.read_text(errors="replace")[-characters:]

    def set_theme(self, theme: str) -> None:
        """Make "light" or "dark" the theme of the pages opened from now on."""
        path = self.settings / "@jupyterlab" / "apputils-extension" / "themes.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"theme": THEMES[theme]}))

    def stop_kernels(self) -> None:
        """End every kernel, so that the next notebook has the memory."""
        for session in json.loads(self.request("/api/sessions")):
            self.request(f"/api/sessions/{session['id']}", "DELETE")

    def stop(self) -> None:
        """End the server and its kernels."""
        stop(self.process)


class App:
    """A server of one page, in a folder of its own, which tells its address once it listens."""

    def __init__(
        self, directory: Path, command: list[str], address: str = r"http://127\.0\.0\.1:\d+/\?token=\w+"
    ) -> None:
        """Start it.

        Args:
            directory: Where all that it writes is.
            command: What starts it on the port ``{port}``.
            address: Pattern of its address, token and all.
        """
        self.folder = directory / "folder"
        self.folder.mkdir()
        self.log = directory / "app.log"
        self.address = address
        port = str(free_port())
        command = [word.replace("{port}", port) for word in command]
        self.process = start(command, own_environment(directory), self.folder, self.log)

    def wait_for_address(self, timeout: float = PATIENCE) -> str:
        """Address that it tells once it listens."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and self.process.poll() is None:
            found = re.search(rf"{self.address}(?=\s)", self.log.read_text(errors="replace"))
            if found:
                return found[0].strip()
            time.sleep(0.1)
        raise RuntimeError(f"the app told no address within {timeout} s; its log ends:\n{self.log.read_text()[-4000:]}")

    def stop(self) -> None:
        """End the server and its kernels."""
        stop(self.process)


NBQUANT_APP = [sys.executable, "-c", "from nbquant.cli import main; main()", "app", "--no-browser", "--port={port}"]


@dataclass
class Complaints:
    """What a browser complained about.

    Attributes:
        console_errors: What was logged with console.error, and exceptions that no script caught.
        outside_requests: Addresses asked for that are not on this machine.
    """

    console_errors: list[str] = field(default_factory=list)
    outside_requests: list[str] = field(default_factory=list)

    def listen(self, page: Page) -> None:
        """Note what happens in ``page`` from now on."""
        page.on("console", lambda m: m.type == "error" and self.console_errors.append(f"{m.text} ({m.location})"))
        page.on("pageerror", lambda e: SLOW not in str(e) and self.console_errors.append(f"uncaught: {e}\n{e.stack}"))
        page.on("request", lambda request: self._note(request.url))
        page.on("websocket", lambda socket: self._note(socket.url))

    def _note(self, url: str) -> None:
        host = urlsplit(url).hostname  # none for data: and blob:
        if host is not None and host not in HERE:
            self.outside_requests.append(url)

    def assert_none(self) -> None:
        """Fail if the console has an error or anything outside this machine was asked for."""
        assert not self.console_errors, "\n".join(["the browser's console has errors:", *self.console_errors])
        assert not self.outside_requests, "\n".join(["requests to the outside:", *self.outside_requests])


@dataclass
class Notebook:
    """One notebook, open in JupyterLab.

    Attributes:
        page: Playwright's page, for all that has no method here.
        lab: The server.
        name: File name within the server's root.
        complaints: What the browser complained about meanwhile.
    """

    page: Page
    lab: JupyterLab
    name: str
    complaints: Complaints = field(default_factory=Complaints)

    def open(self) -> None:
        """Open the notebook and wait for its kernel."""
        self.complaints.listen(self.page)
        # A workspace of its own: a reloaded page opens what its workspace holds, which other pages would change.
        workspace = f"{self.lab.url}/lab/workspaces/page-{secrets.token_hex(4)}"
        self.page.goto(f"{workspace}/tree/{quote(self.name)}?reset&token={self.lab.token}")
        self.wait_for_kernel()

    def wait_for_kernel(self) -> None:
        """Wait until the notebook is open and its kernel idle."""
        self.page.wait_for_function(
            """name => {
                const widget = window.jupyterapp?.shell.currentWidget;
                return widget?.context?.path === name && widget.context.isReady
                    && widget.sessionContext?.session?.kernel?.status === 'idle';
            }""",
            arg=self.name,
        )

    def replace_cells(self, cells: list[str]) -> None:
        """Put these cells in the place of all; the kernel is the same."""
        self.page.evaluate(
            """cells => {
                const shared = window.jupyterapp.shell.currentWidget.model.sharedModel;
                shared.transact(() => {
                    shared.deleteCellRange(0, shared.cells.length);
                    shared.insertCells(0, cells.map(source => ({ cell_type: "code", source })));
                });
            }""",
            cells,
        )

    def command(self, name: str, arguments: dict | None = None, timeout: float = 240) -> None:
        """Run one of JupyterLab's commands and wait until it is done, at most ``timeout`` s."""
        self.page.evaluate(
            """([name, arguments_]) => {
                window.commandOutcome = null;
                window.jupyterapp.commands.execute(name, arguments_).then(
                    () => { window.commandOutcome = 'done'; },
                    error => { window.commandOutcome = `failed: ${error}`; });
            }""",
            [name, arguments or {}],
        )
        self.page.wait_for_function("() => window.commandOutcome", timeout=1000 * timeout)
        outcome = self.page.evaluate("() => window.commandOutcome")
        assert outcome == "done", f"JupyterLab's command {name} {outcome}"

    def run_all(self, timeout: float = 240) -> None:
        """Run all cells, wait for the last one, and fail with the message of a cell that raised."""
        self.command("notebook:run-all-cells", timeout=timeout)
        self.wait_idle(timeout)
        errors = self.page.evaluate(
            """() => window.jupyterapp.shell.currentWidget.model.sharedModel.toJSON().cells
                .flatMap(cell => (cell.outputs ?? []).filter(output => output.output_type === 'error'))
                .map(output => `${output.ename}: ${output.evalue}`)"""
        )
        assert not errors, f"cells of {self.name} raised {errors}"

    def wait_idle(self, timeout: float = PATIENCE) -> None:
        """Wait until page and kernel have answered all that they asked of each other, such as a drag to its end.

        The kernel answers in turn, so what was sent before an empty request is done with it. Widgets hold a change back
        while an earlier one is under way, and the page waits for a frame before it tells one: hence three rounds.
        """
        self.page.evaluate(
            """() => {
                window.rounds = 0;
                const { kernel } = window.jupyterapp.shell.currentWidget.sessionContext.session;
                const frame = () => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
                const round = () => frame().then(() => kernel.requestExecute({ code: "", silent: true }).done).then(
                    () => { window.rounds += 1; return window.rounds < 3 ? round() : frame(); });
                round().then(() => { window.rounds = "all"; });
            }"""
        )
        self.page.wait_for_function("() => window.rounds === 'all'", timeout=1000 * timeout)

    def find(self, selector: str, timeout: float = PATIENCE) -> Locator:
        """First visible element of the notebook that ``selector`` names, scrolled into view."""
        found = self.page.locator(f".jp-Notebook {selector} >> visible=true").first
        found.wait_for(timeout=1000 * timeout)
        found.scroll_into_view_if_needed()
        return found

    def drag(self, handle: Locator, by: tuple[float, float], steps: int = 10) -> None:
        """Press the mouse on the middle of ``handle``, move it by (x, y) pixels in ``steps`` moves, let go."""
        handle.scroll_into_view_if_needed()
        box = handle.bounding_box()
        assert box is not None, "the handle to drag is not on the page"
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + by[0], y + by[1], steps=steps)
        self.page.mouse.up()

    def press(self, handle: Locator, key: str, times: int = 1) -> None:
        """Focus ``handle`` and press a key, such as "ArrowRight"."""
        handle.focus()
        for _ in range(times):
            self.page.keyboard.press(key)

    def set_theme(self, theme: str) -> None:
        """Switch to the "light" or "dark" theme and wait until it is drawn."""
        self.command("apputils:change-theme", {"theme": THEMES[theme]})
        light = "true" if theme == "light" else "false"
        self.page.wait_for_function(f"() => document.body.dataset.jpThemeLight === '{light}'")

    def screenshot(self, path: Path, of: Locator | None = None) -> Path:
        """Write a PNG of the page, or of one element."""
        (of or self.page).screenshot(path=path)
        return path


def new_page(browser: Browser, viewport: tuple[int, int] = (1280, 900), **options: Any) -> Page:
    """Open an empty page of its own context, which waits as long as a busy machine takes."""
    context = browser.new_context(viewport={"width": viewport[0], "height": viewport[1]}, **options)
    context.set_default_timeout(1000 * PATIENCE)
    return context.new_page()


def open_notebook(browser: Browser, lab: JupyterLab, name: str, viewport: tuple[int, int] = (1280, 900)) -> Notebook:
    """Open a notebook of ``lab`` in a page of its own."""
    notebook = Notebook(new_page(browser, viewport), lab, name)
    notebook.open()
    return notebook


def write_scratch(path: Path, cells: list[str]) -> None:
    """Write a notebook of these cells."""
    import nbformat  # takes seconds, which processes without a notebook need not spend

    content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    content.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(content, path)
