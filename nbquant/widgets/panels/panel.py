"""What a panel of the explorer is: a figure with its numbers, table and words."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from nbquant.views import theme
from nbquant.widgets.state import ExplorerState

Kind = Literal["clusters", "curves", "map", "result", "wide"]
"""What the front end draws over a figure and how it lays it out: clusters that can be moved; curves with the chosen
point; maps of weights with the brushed region; results that come late; such as take the whole width."""


@dataclass(frozen=True)
class Panel:
    """A figure of the explorer: all that other rooms ask of it.

    A new panel is one file, with its functions and its record, and one line in :mod:`nbquant.widgets.panels.panels`.

    Attributes:
        name: An identifier; figures and files are called so.
        title: A word or two for its tab.
        kind: What the front end draws over it, and where.
        data: data(state, whole) gives its numbers, None while there are none; whole with all that a still picture
            shows, else without what the front end draws itself.
        draw: draw(data, state, whole) gives the figure.
        table: table(data) gives the numbers behind it.
        describe: describe(state) says in words what it shows; "" if nothing. There is an operating point.
        follows: Traits of the state whose changes redraw it.
        late: Whether it takes no room before it is shown.
        slow: Whether drawing may take longer than a tick of a slider, so that it has a thread of its own.
        empty: empty(state) gives a figure that stands where there are no numbers; None for none.
    """

    name: str
    title: str
    kind: Kind
    data: Callable[[ExplorerState, bool], Any]
    draw: Callable[[Any, ExplorerState, bool], theme.Figure]
    table: Callable[[Any], pd.DataFrame]
    describe: Callable[[ExplorerState], str]
    follows: tuple[str, ...]
    late: bool = False
    slow: bool = False
    empty: Callable[[ExplorerState], theme.Figure | None] | None = None

    def figure(self, state: ExplorerState, whole: bool = True) -> theme.Figure | None:
        """Draw it; None while there is nothing to draw."""
        data = self.data(state, whole)
        if data is not None:
            return self.draw(data, state, whole)
        return None if self.empty is None else self.empty(state)

    def frame(self, state: ExplorerState) -> pd.DataFrame | None:
        """The numbers behind it; None while there are none."""
        data = self.data(state, True)
        return None if data is None else self.table(data)
