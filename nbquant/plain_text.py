"""Text output on terminals with limited encodings: missing characters are replaced by similar ones."""

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
"""Register the replacement of characters missing in an encoding; returns its name for the argument ``errors``."""

codecs.register_error(plainly, _replaced)
