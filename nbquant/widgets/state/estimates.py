"""Keep the sensitivities at hand that were in use, so that choosing them again is instant."""

from nbquant.widgets.jobs.weights import Weights

MOST = 3  # estimates that are kept, beside the given one


class Estimates:
    """Weights with each of their sensitivities, by estimator and number of samples.

    Attributes:
        in_use: Estimator and number of samples of the sensitivities in use; None before the first.
        given: Weights with the sensitivities that were given, which stand for the first estimate; None without.
    """

    def __init__(self, given: Weights | None) -> None:
        """Start with none at hand."""
        self.in_use: tuple[str, int] | None = None
        self.given = given
        self._at_hand: dict[tuple[str, int], Weights] = {}

    def get(self, estimator: str, samples: int) -> Weights | None:
        """Get the weights with these sensitivities; None if they are not at hand."""
        return self._at_hand.get((estimator, samples))

    def use(self, estimator: str, samples: int, weights: Weights) -> None:
        """Use sensitivities, and keep them at hand in the place of the oldest."""
        self.in_use = key = estimator, samples
        self._at_hand.pop(key, None)
        self._at_hand[key] = weights
        others = [k for k, w in self._at_hand.items() if w is not self.given]
        for old in others[:-MOST]:
            del self._at_hand[old]

    def start_again(self, before: Weights, now: Weights) -> None:
        """Forget all of them, as they were of other weights; given ones go on with the new weights."""
        self._at_hand = {}
        if before is self.given:
            self.given = now
