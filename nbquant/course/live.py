"""Live pictures of the course: a figure with sliders, and a still picture where nothing runs."""

import base64
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, Protocol, TypeVar

import ipywidgets
from IPython.core.getipython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure

from nbquant.views.notebook_figure import DPI, png

_SHARP = 1.6  # pixels of the picture on the screen's, as many screens have two

# While the widget is seen, the still picture after it is hidden. In a dark theme, white becomes the dark of JupyterLab
# and black a light gray; turning all hues by half a circle afterwards gives each line its own hue again.
_STYLE = """<style>
.jp-OutputArea-child:has(.nbquant-live) + .jp-OutputArea-child:has(.jp-RenderedImage) { display: none; }
:is(body[data-jp-theme-light="false"], body.vscode-dark, html[theme="dark"]) .nbquant-live img {
    filter: invert(0.93) hue-rotate(180deg);
}
</style>"""


class Summarized(Protocol):
    """Numbers of a picture.

    Attributes:
        summary: One sentence that says what the picture shows; those who cannot see it read it.
    """

    @property
    def summary(self) -> str: ...  # noqa: D102


Data = TypeVar("Data", bound=Summarized)


class Live:
    """A picture that is drawn again when one of its controls moves.

    Attributes:
        controls: Widget of each argument of the data function.
        box: The widget: controls, picture and summary.
    """

    def __init__(
        self, data: Callable[..., Data], draw: Callable[[Data], Figure], controls: dict[str, ipywidgets.ValueWidget]
    ) -> None:
        """Draw the picture at the controls' first values.

        Args:
            data: data(**values) computes the numbers.
            draw: draw(numbers) draws them.
            controls: A control for each argument of ``data``, by name.
        """
        self._data, self._draw, self.controls = data, draw, dict(controls)
        self._picture = ipywidgets.HTML()
        row = ipywidgets.HBox(
            list(self.controls.values()), layout=ipywidgets.Layout(flex_flow="row wrap", grid_gap="0 1rem")
        )
        self.box = ipywidgets.VBox([row, self._picture])
        self.box.add_class("nbquant-live")
        self.update()
        for control in self.controls.values():
            control.observe(self.update, "value")

    @property
    def values(self) -> dict[str, Any]:
        """Values of the controls, by name."""
        return {name: control.value for name, control in self.controls.items()}

    @property
    def summary(self) -> str:
        """What the picture shows, in a sentence."""
        return self._data(**self.values).summary

    def figure(self) -> Figure:
        """Draw the picture at the controls' values."""
        return self._draw(self._data(**self.values))

    def update(self, change: object = None) -> None:
        """Draw the picture again."""
        numbers = self._data(**self.values)
        figure = self._draw(numbers)
        image = base64.b64encode(png(figure, _SHARP * DPI)).decode()
        text, width = escape(numbers.summary), round(figure.get_figwidth() * DPI)
        self._picture.value = (
            f'{_STYLE}<img src="data:image/png;base64,{image}" alt="{text}" style="width:100%;max-width:{width}px">'
            f'<div role="status" style="line-height:1.4;max-width:{width}px">{text}</div>'
        )

    def _ipython_display_(self) -> None:
        display(self.box)
        if getattr(get_ipython(), "kernel", None) is not None:
            still = base64.b64encode(png(self.figure(), DPI)).decode()
            display({"image/png": still, "text/plain": self.summary}, raw=True)


def slider(label: str, values: Sequence[Any], start: Any, text: Callable[[Any], str] = str) -> ipywidgets.ValueWidget:
    """Make a slider, moved by mouse or by the arrow keys.

    Args:
        label: What it sets, with the unit.
        values: Its values.
        start: The first one.
        text: text(value) is shown beside it.
    """
    return ipywidgets.SelectionSlider(
        options=[(text(value), value) for value in values],
        value=start,
        description=label,
        style={"description_width": "initial"},
        layout=ipywidgets.Layout(width="min(30rem, 100%)"),
    )


def choice(label: str, options: Sequence[Any], start: Any) -> ipywidgets.ValueWidget:
    """Make a menu.

    Args:
        label: What it sets.
        options: Values, or pairs of a text and a value.
        start: The first one.
    """
    return ipywidgets.Dropdown(
        options=list(options),
        value=start,
        description=label,
        style={"description_width": "initial"},
        layout=ipywidgets.Layout(width="min(16rem, 100%)"),
    )
