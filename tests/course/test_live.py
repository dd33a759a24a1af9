"""A live picture redraws itself, and leaves a still one in the notebook."""

import base64
import io
from dataclasses import dataclass

import ipywidgets
import pytest
from PIL import Image

from nbquant.course import live as live_module
from nbquant.course.live import Live, choice, slider
from nbquant.views.notebook_figure import NotebookFigure


@dataclass(frozen=True)
class Numbers:
    n: int
    name: str

    @property
    def summary(self):
        return f"{self.name} < {self.n}"


def draw(data):
    figure = NotebookFigure(figsize=(2, 1))
    figure.text(0.5, 0.5, str(data.n))
    return figure


@pytest.fixture
def live():
    return Live(Numbers, draw, {"n": slider("n", range(5), 2), "name": choice("name", ["a", "b"], "a")})


def test_controls_take_the_keyboard(live):
    """Both are controls of ipywidgets that arrow keys move."""
    kinds = [type(control) for control in live.controls.values()]
    assert kinds == [ipywidgets.SelectionSlider, ipywidgets.Dropdown]


def test_it_redraws_and_says_what_it_shows(live):
    before = live.box.children[1].value
    live.controls["n"].value = 4
    after = live.box.children[1].value
    assert before != after
    assert live.values == {"n": 4, "name": "a"}
    assert 'alt="a &lt; 4"' in after
    assert 'role="status"' in after
    assert live.summary == "a < 4"


def test_picture_follows_a_dark_theme(live):
    assert 'body[data-jp-theme-light="false"]' in live.box.children[1].value
    assert "filter: invert(" in live.box.children[1].value


def test_still_picture_beside_the_widget(live, monkeypatch):
    shown = []
    monkeypatch.setattr(live_module, "display", lambda what, raw=False: shown.append(what))
    live._ipython_display_()
    assert shown == [live.box]  # not in a notebook
    monkeypatch.setattr(live_module, "get_ipython", lambda: type("Shell", (), {"kernel": 1}))
    live._ipython_display_()
    still = shown[-1]
    assert still["text/plain"] == "a < 2"
    assert Image.open(io.BytesIO(base64.b64decode(still["image/png"]))).format == "PNG"
