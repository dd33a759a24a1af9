"""From key press on the ratio slider to the figures drawn, in JupyterLab in headless Chromium, as a user sees it.

python -m tests.benchmarks slider
"""

import sys
import tempfile
from pathlib import Path
from statistics import median

from playwright.sync_api import sync_playwright

from tests.benchmarks import options
from tests.browser.lab import JupyterLab, chromium_arguments, find_chromium, open_notebook, write_scratch

PRESSES = 27
WARM = 3  # presses that do not count
PRESS = """async () => {
    const figures = ['histogram', 'rate_distortion'].map(n => document.querySelector(`[data-figure=${n}]`));
    const readout = () => document.querySelector('.nbquant-readout').textContent;
    const before = figures.map(f => f.dataset.revision), text = readout();
    const handle = document.querySelector('.nbquant-explorer .noUi-handle');
    const start = performance.now(), times = [0, 0, 0];
    handle.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowRight', bubbles: true }));
    while (!times.every(t => t) && performance.now() - start < 3000) {
        await new Promise(done => requestAnimationFrame(done));
        const changed = [readout() !== text, ...figures.map((f, i) => f.dataset.revision !== before[i])];
        changed.forEach((c, i) => { if (c && !times[i]) times[i] = performance.now() - start; });
    }
    return times;
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
            print(f"{'median ms to':<12}{'read-out':>10}{'histogram':>11}{'all drawn':>11}")
            for method in ("uniform", "ecsq"):
                cell = f"nq.explore(*nq.zoo.load('lenet5-fashion'), method={method!r})"
                write_scratch(lab.root / "slider.ipynb", ["import nbquant as nq", cell])
                notebook = open_notebook(browser, lab, "slider.ipynb")
                notebook.run_all()
                notebook.page.wait_for_timeout(8000)  # sensitivities and curves
                notebook.find(".nbquant-explorer .noUi-handle").focus()
                times = []
                for _ in range(chosen.rounds + WARM):
                    times.append(notebook.page.evaluate(PRESS))
                    notebook.page.wait_for_timeout(100)
                shown = [median(column) for column in zip(*times[WARM:], strict=True)]
                print(f"{method:<12}{shown[0]:>10.0f}{shown[1]:>11.0f}{max(shown):>11.0f}", flush=True)
                notebook.page.context.close()
                lab.stop_kernels()
            browser.close()
        finally:
            lab.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
