"""What is wrong with a file."""

MOST_SECTION, MOST_REASON = 120, 440  # characters: a file may hold names and values of any length


class CorruptFileError(ValueError):
    """A file is no complete and undamaged .nbq file, or of a version that is not known; nothing in it can be trusted.

    Attributes:
        section: Which part of the file, such as "header" or "tensor 'fc1.weight'".
        reason: What was required, what came, and what to do.
    """

    def __init__(self, section: str, reason: str) -> None:
        self.section, self.reason = _shortened(section, MOST_SECTION), _shortened(reason, MOST_REASON)
        super().__init__(self.section, self.reason)

    def __str__(self) -> str:
        return f"{self.section}: {self.reason}"


def _shortened(text: str, most: int) -> str:
    """Without its middle where it is too long: what is wrong comes first, what to do last."""
    return text if len(text) <= most else f"{text[: most - 101]}…{text[-100:]}"
