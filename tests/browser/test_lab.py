"""The harness itself: sees what a person does and what goes wrong."""

import pytest

pytestmark = pytest.mark.browser

WIDGETS = """
import anywidget, ipywidgets, traitlets

class Squared(anywidget.AnyWidget):
    _esm = '''
    export default { render({ model, el }) {
        const text = document.createElement("output");
        text.className = "squared";
        const draw = () => { text.textContent = model.get("value").toFixed(3); };
        model.on("change:value", draw);
        draw();
        el.append(text);
    } };
    '''
    value = traitlets.Float(1.0).tag(sync=True)

slider = ipywidgets.FloatLogSlider(value=10, min=0, max=2, step=0.01)
squared = Squared(value=100.0)
slider.observe(lambda change: setattr(squared, "value", change.new**2), "value")
ipywidgets.VBox([slider, squared])
"""


def squared(page):
    """What the page shows once the kernel has answered the last of what the slider told it."""
    page.wait_idle()
    return float(page.find(".squared").inner_text())


def test_slider_by_mouse_and_by_keys_reaches_kernel_and_back_and_the_theme_switches(notebook, tmp_path):
    page = notebook(cells=[WIDGETS])
    page.run_all()
    page.find(".squared")
    assert squared(page) == 100.0

    handle = page.find(".noUi-handle")
    page.drag(handle, by=(40, 0))
    dragged = squared(page)
    assert dragged > 100.0

    page.press(handle, "ArrowLeft", times=3)
    assert 100.0 < squared(page) < dragged
    assert page.screenshot(tmp_path / "page.png").stat().st_size > 10_000

    colour = "() => getComputedStyle(document.body).getPropertyValue('--jp-layout-color0').trim()"
    page.set_theme("light")
    light = page.page.evaluate(colour)
    page.set_theme("dark")
    assert page.page.evaluate(colour) != light
    page.set_theme("light")


def test_console_errors_outside_requests_and_raising_cells_are_seen(notebook):
    page = notebook(
        cells=[
            "from IPython.display import HTML, Javascript\nJavascript('console.error(\"loud\")')",
            "HTML('<img src=\"https://example.org/x.png\">')",
            "1 / 0",
        ]
    )
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        page.run_all()
    page.find("img")
    with pytest.raises(AssertionError, match="loud"):
        page.complaints.assert_none()
    page.complaints.console_errors.clear()
    with pytest.raises(AssertionError, match=r"example\.org"):
        page.complaints.assert_none()
    page.complaints.outside_requests.clear()
