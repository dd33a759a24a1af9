"""What a step of undo goes back to: settings, the model they are of, and what was fine-tuned there."""

from dataclasses import dataclass

from nbquant.coding.ledger import Ledger
from nbquant.pipeline.finetune import FineTuned
from nbquant.pipeline.prune import Pruned
from nbquant.widgets.jobs.network import Network
from nbquant.widgets.settings import Settings
from nbquant.widgets.state.estimates import Estimates


@dataclass(frozen=True, eq=False)
class Model:
    """The model that the results are of: the one that was given, or a pruned one.

    Attributes:
        estimates: Its weights, with their sensitivities.
        network: The module with its data; None without.
        pruned: The pruned module with its history; None if it was not pruned.
        density: Density that it was pruned to; None if it was not.
    """

    estimates: Estimates
    network: Network | None
    pruned: Pruned | None = None
    density: float | None = None


@dataclass(frozen=True, eq=False)
class Moment:
    """The explorer between two steps of the user.

    Attributes:
        settings: All inputs that the results follow from.
        model: The model that they are of.
        finetuned: What was fine-tuned at the target; None if nothing was.
        ledger: The ledger of its file; None if it is not known.
    """

    settings: Settings
    model: Model
    finetuned: FineTuned | None = None
    ledger: Ledger | None = None

    def heavy(self) -> tuple[object, ...]:
        """The parts that take much memory; the history keeps few of them."""
        return tuple(part for part in (self.model.pruned, self.finetuned) if part is not None)
