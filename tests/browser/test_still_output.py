"""The picture of a saved notebook in JupyterLab: out of sight while the widget lives, there when it is gone."""

import json

import pytest

pytestmark = pytest.mark.browser

CELLS = [
    """
import io, threading
import anywidget, traitlets
from IPython.display import display
from PIL import Image
from nbquant.widgets.view.still_output import HIDING, StillOutput

class Live(anywidget.AnyWidget):
    _esm = '''
    export default { render({ model, el }) {
        const button = document.createElement("button");
        button.className = "nbquant-explorer";
        button.textContent = "live";
        button.onclick = () => { model.set("pressed", model.get("pressed") + 1); model.save_changes(); };
        el.append(button);
    } };
    '''
    _css = HIDING
    pressed = traitlets.Int(0).tag(sync=True)

def render():
    file = io.BytesIO()
    Image.new("RGB", (40 + 10 * live.pressed, 40), "orange").save(file, "png")
    return file.getvalue()

live = Live()
still = StillOutput(render, "live")
live.observe(lambda change: threading.Thread(target=still.update).start(), "pressed")
display(live)
still.display()
""",
    "from IPython.display import Image as Other\nOther(render())",
]
PICTURES = ".jp-RenderedImage img"


def test_picture_is_hidden_while_the_widget_lives_and_is_what_was_last_seen(notebook):
    opened = notebook(cells=CELLS, name="still.ipynb")
    opened.run_all()
    page = opened.page
    opened.find("button.nbquant-explorer")
    assert [picture.is_visible() for picture in page.locator(PICTURES).all()] == [False, True]
    opened.find("button.nbquant-explorer").click()
    page.wait_for_function("() => document.querySelector('.jp-RenderedImage img').naturalWidth === 50")
    assert [picture.is_visible() for picture in page.locator(PICTURES).all()] == [False, True]
    opened.command("docmanager:save")
    saved = json.loads((opened.lab.root / "still.ipynb").read_text())
    assert ["image/png" in output["data"] for output in saved["cells"][0]["outputs"]] == [False, True]

    page.reload()
    page.wait_for_selector(PICTURES, state="attached")
    opened.find("button.nbquant-explorer")  # its kernel lives on
    assert [picture.is_visible() for picture in page.locator(PICTURES).all()] == [False, True]

    page.close()  # which may still be asking its kernel, and would complain of its end
    opened.lab.stop_kernels()
    again = notebook(name="still.ipynb")  # the kernel is another one, and the widget gone
    first = again.find(PICTURES)
    assert first.evaluate("image => image.naturalWidth") == 50
    again.complaints.console_errors.clear()  # ipywidgets misses its model
