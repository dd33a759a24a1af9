"""The error for damaged files."""

MOST_SECTION, MOST_REASON = 120, 440  # characters: a file may hold names and values of any length


class CorruptFileError(ValueError):
    """A file is not a complete and undamaged .nbq file of a known version; nothing in it can be trusted.

    Attributes:
        section: Part of the file, such as "header" or "tensor 'fc1.weight'".
        reason: What is required, what was found, and what to do.
    """

    def __init__(self, section: str, reason: str) -> None:
        self.section, self.reason = _shortened(section, MOST_SECTION), _shortened(reason, MOST_REASON)
        super().__init__(self.section, self.reason)

    def __str__(self) -> str:
        return f"{self.section}: {self.reason}"


def _shortened(text: str, most: int) -> str:
    """Cut the middle of long text: the beginning says what is wrong, the end what to do."""
    return text if len(text) <= most else f"{text[: most - 101]}…{text[-100:]}"
