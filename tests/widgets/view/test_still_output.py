import base64
import io
import threading

import pytest
from PIL import Image

from nbquant.widgets.view import still_output
from nbquant.widgets.view.still_output import StillOutput

CELLS = [
    """
import io, threading
from PIL import Image
from nbquant.widgets.view.still_output import StillOutput

def render():
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "png")
    return file.getvalue()

colour = "red"
still = StillOutput(render, "A patch")
still.update()  # of nothing
still.display()
""",
    """
colour = "blue"
thread = threading.Thread(target=still.update)
thread.start()
thread.join()
""",
    "import time; time.sleep(0.2)",
]


def png(colour):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "png")
    return file.getvalue()


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    import nbformat  # both take seconds to import, which processes without a notebook need not spend
    from nbclient import NotebookClient

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
        NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    return notebook


def test_notebook_has_the_last_picture_in_the_first_cell_alone(executed):
    outputs = [cell.outputs for cell in executed.cells]
    assert [len(each) for each in outputs] == [1, 0, 0]
    assert outputs[0][0].data["text/plain"] == "A patch"
    picture = Image.open(io.BytesIO(base64.b64decode(outputs[0][0].data["image/png"])))
    assert picture.convert("RGB").getpixel((4, 4)) == (0, 0, 255)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_exported_page_has_it_too_without_any_widget(executed):
    from nbconvert import HTMLExporter  # imports nbformat

    executed.metadata.pop("widgets", None)
    page, _ = HTMLExporter().from_notebook_node(executed)
    assert base64.b64encode(png("blue")).decode() in page.replace("\n", "")
    assert base64.b64encode(png("red")).decode() not in page.replace("\n", "")


class Shell:
    kernel = object()


@pytest.fixture
def displayed(monkeypatch):
    displayed = []
    monkeypatch.setattr(still_output, "get_ipython", Shell)
    monkeypatch.setattr(still_output, "display", lambda data, **rest: displayed.append((data, rest)))
    return displayed


def test_equal_pictures_are_sent_once_and_nothing_is_an_empty_output(displayed):
    now = b""
    still = StillOutput(lambda: now, "Text")
    still.update()
    assert displayed == []
    still.display()
    now = b"\x89PNG"
    still.update()
    still.update()
    (first, how), (second, then) = displayed
    assert first == {"text/plain": "Text"}
    assert second == first | {"image/png": "iVBORw=="}
    assert (how["update"], then["update"]) == (False, True)
    assert how["display_id"] == then["display_id"] != StillOutput(bytes)._id


def test_threads_draw_one_after_the_other_and_the_last_state_is_shown_last(displayed):
    drawing, state = threading.Lock(), 0

    def render():
        assert drawing.acquire(blocking=False)
        try:
            return b"%d" % state
        finally:
            drawing.release()

    still = StillOutput(render)
    still.display()

    def work():
        nonlocal state
        for _ in range(50):
            state += 1
            still.update()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert displayed[-1][0]["image/png"] == base64.b64encode(b"%d" % state).decode()


@pytest.mark.parametrize("shell", [lambda: None, object])
def test_outside_a_notebook_nothing_is_drawn_or_printed(monkeypatch, capsys, shell):
    monkeypatch.setattr(still_output, "get_ipython", shell)
    still = StillOutput(lambda: pytest.fail("drawn"))
    still.display()
    still.update()
    assert capsys.readouterr() == ("", "")
