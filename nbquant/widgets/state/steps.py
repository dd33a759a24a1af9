"""Undo and redo: settings, pruning and fine-tuning."""

from nbquant.coding.ledger import Ledger
from nbquant.pipeline.finetune import FineTuned
from nbquant.widgets.jobs.exact import FitRequest
from nbquant.widgets.jobs.finetune import SLOT as FINETUNE
from nbquant.widgets.jobs.prune import SLOT as PRUNE
from nbquant.widgets.settings import Settings
from nbquant.widgets.state.beside import Beside
from nbquant.widgets.state.moment import Moment


class Steps(Beside):
    """The user's steps, each of which can be undone."""

    _returning: Moment | None = None  # to what was fine-tuned there, until the user goes on

    def undo(self) -> None:
        """Go back by one step, if there is one; pruning or fine-tuning under way is cancelled instead."""
        with self._deciding():
            under_way = [slot for slot in (PRUNE, FINETUNE) if self._jobs.wanted(slot)]
            if under_way:
                self._jobs.cancel(*under_way)
                return
            self._go_back(self._history.undo(self._moment()))

    def redo(self) -> None:
        """Do again what was undone last, if nothing was done since."""
        with self._deciding():
            self._go_back(self._history.redo(self._moment()))

    def _accept(self, settings: Settings, step: str = "") -> None:
        self._returning = None
        super()._accept(settings, step)

    def _go_back(self, moment: Moment | None) -> None:
        """Go to a moment of the history, if there is one."""
        if moment is None:
            return
        self._returning = moment
        other = moment.model.estimates is not self._estimates
        if other:
            self._use(moment.model)
        self._go(moment.settings, again=other)
        self._return_finetuned()

    def _take_finetuned(self, found: FineTuned, ledger: Ledger | None) -> None:
        """Take over what was fine-tuned, as a step of its own."""
        self._returning = None
        self._history.record(self._moment())
        self._show_finetuned(found, ledger)
        self._show_steps()
        self._measure_at_rest()

    def _show_point(self, request: FitRequest) -> None:
        super()._show_point(request)
        self._return_finetuned()

    def _return_finetuned(self) -> None:
        """Go back to what was fine-tuned at the point that is shown, or that nothing was."""
        back, request = self._returning, self._exact.request
        if back is None or request is None or self.is_stale or back.settings.value != request.settings.value:
            return  # the point of the settings has yet to come
        if self._curves_of is None or self._curves_of.weights is not self._weights:
            return  # as have curves of the model
        if back.finetuned is self.finetuned:
            return
        self._jobs.cancel("finetune", "glance")
        if back.finetuned is None:
            self._drop_finetuned()
        else:
            self._show_finetuned(back.finetuned, back.ledger)
        self._measure_at_rest()
