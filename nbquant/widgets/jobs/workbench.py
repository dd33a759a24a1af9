"""Bundle what the jobs that a user starts need: slots, weights, network and exact pass."""

from collections.abc import Callable
from dataclasses import dataclass

from nbquant.pipeline.finetune import FineTuned
from nbquant.quantization.quantized import Quantized
from nbquant.widgets.jobs.exact import ExactPass
from nbquant.widgets.jobs.jobs import Jobs
from nbquant.widgets.jobs.network import Network
from nbquant.widgets.jobs.slot import Report
from nbquant.widgets.jobs.weights import Weights


@dataclass(frozen=True, eq=False)
class Workbench:
    """The explorer at the moment when a job is asked for.

    Attributes:
        jobs: Runs the job, and tells what goes wrong.
        weights: The weights in use.
        network: The module with its data; None without.
        lacking: What is missing where there is no network; "" if nothing is.
        exact: The exact pass, whose request may be a newer one when the job ends.
        finetuned: What was fine-tuned at this target; None if nothing was.
    """

    jobs: Jobs
    weights: Weights
    network: Network | None
    lacking: str
    exact: ExactPass
    finetuned: FineTuned | None

    def with_network(self, slot: str, refusal: str) -> Network | None:
        """Get the network; where there is none, tell under ``slot`` what cannot be done."""
        if self.network is None:
            self.jobs.tell(slot, f"{refusal}: {self.lacking}")
        return self.network

    def quantized(self, slot: str) -> Callable[[Report], Quantized] | None:
        """Get what waits for the exact result at this target; where there is no target, tell so under ``slot``."""
        found = self.exact.awaited()
        if found is None:
            self.jobs.tell(slot, "there is no operating point yet: choose a target within reach")
        return found

    def kept(self, slot: str) -> Callable[[Report], Quantized] | None:
        """The same, fine-tuned if it was fine-tuned."""
        finetuned = self.finetuned
        return self.quantized(slot) if finetuned is None else lambda report: finetuned.quantized
