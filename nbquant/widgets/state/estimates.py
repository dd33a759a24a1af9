"""Keep the sensitivities at hand that were in use, so that choosing them again is instant."""

from nbquant.widgets.jobs.weights import Weights

MOST = 3  # estimates that are kept, beside the given one


class Estimates:
    """Weights with each of their sensitivities, by estimator and number of samples.

    Attributes:
        weights: The weights, with the sensitivities in use.
        in_use: Estimator and number of samples of these; None before the first.
        given: Weights with the sensitivities that were given, which stand for the first estimate; None without.
    """

    def __init__(self, weights: Weights, given: Weights | None) -> None:
        """Start with none at hand."""
        self.weights = weights
        self.in_use: tuple[str, int] | None = None
        self.given = given
        self._at_hand: dict[tuple[str, int], Weights] = {}

    def get(self, estimator: str, samples: int) -> Weights | None:
        """Get the weights with these sensitivities; None if they are not at hand."""
        return self._at_hand.get((estimator, samples))

    def use(self, estimator: str, samples: int, weights: Weights) -> None:
        """Use sensitivities, and keep them at hand in the place of the oldest."""
        self.weights, self.in_use = weights, (key := (estimator, samples))
        self._at_hand.pop(key, None)
        self._at_hand[key] = weights
        others = [k for k, w in self._at_hand.items() if w is not self.given]
        for old in others[:-MOST]:
            del self._at_hand[old]

    def of_other(self, weights: Weights) -> "Estimates":
        """Start again with other weights, for which given sensitivities go on but no estimates do."""
        found = Estimates(weights, weights if self.weights is self.given else self.given)
        found.in_use = self.in_use
        return found
