"""Live pictures of the course in JupyterLab: moved by keys, in both themes, and still where the kernel is gone."""

import io

import pytest
from PIL import Image

pytestmark = pytest.mark.browser

CELLS = ["from nbquant.course import float_bits\nfloat_bits.show(1.5, 0)"]
PICTURE, STILL = ".nbquant-live img", ".jp-RenderedImage img"


def background_and_lines(picture):
    """Brightness of the picture's background, the most frequent one, and of what differs most from it."""
    pixels = Image.open(io.BytesIO(picture.screenshot())).convert("L")
    counts = pixels.histogram()
    background = counts.index(max(counts))
    return background, max(pixels.getextrema(), key=lambda level: abs(level - background))


def test_keys_move_the_slider_themes_change_and_the_still_picture_stays_behind(notebook, tmp_path):
    opened = notebook(cells=CELLS, name="course.ipynb")
    opened.run_all()
    page = opened.page
    assert "1.5 is stored as" in opened.find(PICTURE).get_attribute("alt")
    assert [picture.is_visible() for picture in page.locator(STILL).all()] == [False]
    opened.press(opened.find(".nbquant-live .noUi-handle"), "ArrowRight", 2)
    page.wait_for_function("() => document.querySelector('.nbquant-live img').alt.startsWith('1.52 is stored')")
    assert "1.52" in opened.find(".nbquant-live [role=status]").inner_text()
    background, lines = background_and_lines(opened.find(PICTURE))
    assert background > 240
    assert lines < 80
    opened.set_theme("dark")
    page.wait_for_function("() => getComputedStyle(document.querySelector('.nbquant-live img')).filter !== 'none'")
    opened.screenshot(tmp_path / "dark.png")
    background, lines = background_and_lines(opened.find(PICTURE))
    assert background < 40
    assert lines > 180
    opened.set_theme("light")
    opened.command("docmanager:save")

    page.close()  # which may still be asking its kernel, and would complain of its end
    opened.lab.stop_kernels()
    again = notebook(name="course.ipynb")  # the kernel is another one, and the widget gone
    assert again.find(STILL).evaluate("image => image.naturalWidth") > 500
    again.complaints.console_errors.clear()  # ipywidgets misses its model
