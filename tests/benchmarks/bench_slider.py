"""The explorer as a user sees it, in JupyterLab in headless Chromium: key press and drag to frame, first paint, bytes.

Frames are those of the browser: a key's time runs from the event's own time stamp to the frame after the one in which
the new value was drawn. "kernel" is when the kernel's answer to the last key was drawn.

python -m tests.benchmarks slider
"""

import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

from playwright.sync_api import sync_playwright

from tests.benchmarks import options
from tests.browser.lab import JupyterLab, Notebook, chromium_arguments, find_chromium, open_notebook, write_scratch

PRESSES = 60
WARM = 5  # presses that do not count
DRAG_SECONDS = 3.0

LENET = """
model, data = nq.zoo.load("lenet5-fashion")
nq.save_sensitivity(nq.sensitivity(model, data.calibration, progress=False), "h.safetensors")
"""
LARGE = """
import torch
torch.manual_seed(0)
sizes = ((4096, 9216), (4096, 4096), (1000, 4096), (384, 5184))  # AlexNet's, 6·10⁷ weights
model = torch.nn.ModuleDict({f"fc{i}": torch.nn.Linear(n, m, bias=False) for i, (m, n) in enumerate(sizes)})
for p in model.parameters():
    p.data.normal_(0, 0.01)
h = {name: torch.empty_like(p).log_normal_(-8, 2) for name, p in model.named_parameters()}
data = None
"""
SHOWN = {"4e5": (LENET, "sensitivity='h.safetensors'"), "6e7": (LARGE, "sensitivity=h")}

PROBE = """() => {
    const panel = document.querySelector('.nbquant-panel');
    const probe = window.probe = { keys: [], kernel: [], repaints: 0, released: 0, lag: 0 };
    document.addEventListener('keydown', (event) => {
        const ticks = panel.dataset.ticks;
        let drawn = false;
        const look = () => {
            if (!drawn && panel.dataset.ticks !== ticks) {
                drawn = true;
                requestAnimationFrame(() => probe.keys.push(performance.now() - event.timeStamp));
            }
            if (drawn && panel.dataset.shown === 'now') {
                requestAnimationFrame(() => probe.kernel.push(performance.now() - event.timeStamp));
            } else if (performance.now() - event.timeStamp < 3000) requestAnimationFrame(look);
        };
        requestAnimationFrame(look);
    }, true);
    let last = panel.dataset.ticks;
    const count = () => {
        if (panel.dataset.ticks !== last) { probe.repaints += 1; last = panel.dataset.ticks; }
        requestAnimationFrame(count);
    };
    requestAnimationFrame(count);
    document.addEventListener('pointerup', (event) => {
        const wait = () => { // until the kernel's answer to the last value is drawn
            if (panel.dataset.shown === 'now') probe.lag = performance.now() - event.timeStamp;
            else requestAnimationFrame(wait);
        };
        requestAnimationFrame(wait);
    }, true);
}"""


def main(argv: list[str]) -> None:
    chosen = options.parse(argv, __doc__, rounds=PRESSES)
    if chosen is None:
        return
    chromium = find_chromium()
    if chromium is None:
        print("skipped: needs Chromium")
        return
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        lab = JupyterLab(Path(folder))
        try:
            lab.wait_until_ready()
            browser = playwright.chromium.launch(executable_path=chromium, args=chromium_arguments())
            print(f"{'weights':<8}{'method':<9}{'first paint':>12}{'MB sent':>9}", end="")
            print(f"{'key ms p50':>12}{'p90':>6}{'kernel p50':>12}{'p90':>6}{'repaints in 3 s':>17}{'lag ms':>8}")
            for size, (setup, given) in SHOWN.items():
                for method in ("kmeans", "uniform", "ecsq"):
                    cells = [f"import nbquant as nq\n{setup}", f"nq.explore(model, data, {given}, method={method!r})"]
                    write_scratch(lab.root / "slider.ipynb", cells)
                    notebook = open_notebook(browser, lab, "slider.ipynb", (1280, 1400))
                    print(f"{size:<8}{method:<9}{_measured(notebook, chosen.rounds)}", flush=True)
                    notebook.page.context.close()
                    lab.stop_kernels()
            browser.close()
        finally:
            lab.stop()


def _measured(notebook: Notebook, presses: int) -> str:
    page, sent = notebook.page, [0]
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.on("Network.webSocketFrameReceived", lambda e: sent.__setitem__(0, sent[0] + _size(e["response"])))
    notebook.command("notebook:run-cell-and-select-next")
    notebook.wait_idle(300)
    before, start = sent[0], time.perf_counter()
    notebook.command("notebook:run-cell-and-select-next")
    page.wait_for_selector("[data-figure=histogram][data-revision]", timeout=300_000)
    first = time.perf_counter() - start
    page.wait_for_selector(".nbquant-panel[data-shown-exact=true]", timeout=300_000)
    page.wait_for_timeout(3000)
    megabytes = (sent[0] - before) / 1e6

    slider = page.locator(".nbquant-panel input[type=range]").first
    page.evaluate(PROBE)
    slider.focus()
    for number in range(presses + WARM):
        page.keyboard.press("ArrowRight" if number % 20 < 10 else "ArrowLeft")
        page.wait_for_timeout(120)
    keys, kernel = page.evaluate("() => [probe.keys, probe.kernel]")
    assert len(keys) >= presses, f"only {len(keys)} of {presses} keys were drawn"

    box = slider.bounding_box()
    y, left, width = box["y"] + box["height"] / 2, box["x"], box["width"]
    page.mouse.move(left + 0.3 * width, y)
    page.mouse.down()
    page.evaluate("() => { probe.repaints = 0; }")
    begun = time.perf_counter()
    while (passed := time.perf_counter() - begun) < DRAG_SECONDS:
        page.mouse.move(left + (0.3 + 0.4 * abs((passed % 2) - 1)) * width, y)
        time.sleep(0.008)
    repaints = page.evaluate("() => probe.repaints")
    page.mouse.up()
    page.wait_for_timeout(2000)
    lag = page.evaluate("() => probe.lag")
    keys, kernel = keys[WARM:], kernel[WARM:]
    return (
        f"{first:>10.2f} s{megabytes:>9.2f}{median(keys):>12.0f}{quantiles(keys, n=10)[-1]:>6.0f}"
        f"{median(kernel):>12.0f}{quantiles(kernel, n=10)[-1]:>6.0f}{repaints:>17}{lag:>8.0f}"
    )


def _size(response: dict) -> int:
    """Bytes of a frame; binary ones come as base64."""
    data = response["payloadData"]
    return len(data) * 3 // 4 if response["opcode"] == 2 else len(data.encode())


if __name__ == "__main__":
    main(sys.argv[1:])
