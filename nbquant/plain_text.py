"""Text on terminals that do not know all letters: what they lack is written with those they have."""

import codecs

_PLAIN = {
    "λ": "lambda", "ε": "epsilon", "Δ": "Delta", "Σ": "sum", "σ": "sigma", "√": "sqrt", "½": "1/2", "∞": "inf",
    "×": "x", "·": "*", "−": "-", "–": "-", "—": "-", "±": "+-", "≈": "~", "≤": "<=", "≥": ">=", "→": "->", "…": "...",
    "²": "^2", "³": "^3", "‘": "'", "’": "'", "“": '"', "”": '"',
}  # fmt: skip


def _replaced(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    plain = "".join(_PLAIN.get(letter) or letter.encode("ascii", "backslashreplace").decode() for letter in lacking)
    return plain, error.end


plainly = "nbquant.plainly"
"""Name of the way in which an encoding writes letters that it lacks, for the argument ``errors``."""

codecs.register_error(plainly, _replaced)
