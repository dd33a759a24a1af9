"""Live pictures of the course in JupyterLab: moved by keys, and a still picture where the kernel is gone."""

import pytest

pytestmark = pytest.mark.browser

CELLS = ["from nbquant.course import float_bits\nfloat_bits.show(1.5, 0)"]
PICTURE, STILL = ".nbquant-live img", ".jp-RenderedImage img"


def test_keys_move_the_slider_and_the_still_picture_stays_behind(notebook):
    opened = notebook(cells=CELLS, name="course.ipynb")
    opened.run_all()
    page = opened.page
    assert "1.5 is stored as" in opened.find(PICTURE).get_attribute("alt")
    assert [picture.is_visible() for picture in page.locator(STILL).all()] == [False]
    opened.press(opened.find(".nbquant-live .noUi-handle"), "ArrowRight", 2)
    page.wait_for_function("() => document.querySelector('.nbquant-live img').alt.startsWith('1.52 is stored')")
    assert "1.52" in opened.find(".nbquant-live [role=status]").inner_text()
    opened.command("docmanager:save")

    page.close()  # which may still be asking its kernel, and would complain of its end
    opened.lab.stop_kernels()
    again = notebook(name="course.ipynb")  # the kernel is another one, and the widget gone
    assert again.find(STILL).evaluate("image => image.naturalWidth") > 500
    again.complaints.console_errors.clear()  # ipywidgets misses its model
