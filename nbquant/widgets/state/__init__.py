"""The explorer's state: inputs, results, history, pins and sessions."""

from nbquant.widgets.state.state import ExplorerState

__all__ = ["ExplorerState"]
