"""Still pictures and tables of the explorer."""

import pandas as pd
from matplotlib.figure import Figure

from nbquant.coding.ledger import Ledger
from nbquant.views.ledger import ledger_data, plot_ledger
from nbquant.views.still import picture, still
from nbquant.widgets.panels import panels
from nbquant.widgets.state import ExplorerState
from nbquant.widgets.view.readout import caption, newest_ledger, settings_text

SHOWN = ("histogram", "heatmap", "rate_distortion")  # in one picture


def still_figure(state: ExplorerState, name: str) -> Figure | None:
    """A panel, or the ledger, drawn by matplotlib; None while there is nothing to draw."""
    if name == "ledger":
        ledger = newest_ledger(state)
        return None if ledger is None else plot_ledger(ledger_data({settings_text(state): ledger}))
    drawn = panels.named(name).figure(state)
    return None if drawn is None else still(drawn)


def picture_of(state: ExplorerState) -> Figure | None:
    """What the explorer shows in one still picture; None while there is no point."""
    if state.point is None:
        return None
    shown = [panels.named(name).figure(state) for name in SHOWN]
    ledger = newest_ledger(state)
    bar = None if ledger is None else ledger_data({"bytes": ledger})
    return picture([each for each in shown if each is not None], caption(state), bar)


def table(state: ExplorerState, name: str) -> pd.DataFrame | None:
    """The numbers behind a panel, or behind the ledger; None while there are none."""
    if name == "ledger":
        ledger = newest_ledger(state)
        return None if ledger is None else _bytes(ledger)
    return panels.named(name).frame(state)


def _bytes(ledger: Ledger) -> pd.DataFrame:
    frame = ledger.to_frame()
    frame.insert(2, "bytes", frame["bits"] / 8)
    return frame
