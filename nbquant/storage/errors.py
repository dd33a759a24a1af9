"""What is wrong with a file."""


class CorruptFileError(ValueError):
    """A file is no complete and undamaged .nbq file, or of a version that is not known; nothing in it can be trusted.

    Attributes:
        section: Which part of the file, such as "header" or "tensor 'fc1.weight'".
        reason: What was required, what came, and what to do.
    """

    def __init__(self, section: str, reason: str) -> None:
        super().__init__(section, reason)
        self.section, self.reason = section, reason

    def __str__(self) -> str:
        return f"{self.section}: {self.reason}"
