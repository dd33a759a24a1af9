"""Codes of weights in a block format, with scales and other parts as stored."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from nbquant.coding.entropy import entropy

_COUNTED, _MANY = 2, 1 << 14  # bytes of a symbol, and symbols, from which on counting is faster than sorting


@dataclass(frozen=True)
class Part:
    """Side information of a format, as stored.

    Attributes:
        name: "scale", "sub_scale", "minimum", "zero_point", …
        values: Values as stored: float16 or float32, or the integers or bytes that stand for a scale.
        bits: Stored bits of each value.
    """

    name: str
    values: np.ndarray
    bits: float


@dataclass(frozen=True)
class BlockCodes:
    """Codes of a matrix in a block format.

    Attributes:
        format: Name of the format.
        codes: Code of each weight, rows × columns. :attr:`BlockFormat.levels` has the value of each before scaling.
        parts: Scales and other side information; their first axis counts blocks, in the order of the weights.
        padding: Codes that fill up incomplete blocks, apart, in order: blocks × padded places of each.
        code_bits: Stored bits of each code.
    """

    format: str
    codes: UInt8[np.ndarray, "rows columns"]
    parts: tuple[Part, ...]
    padding: UInt8[np.ndarray, " p"]
    code_bits: float

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the weights."""
        rows, columns = self.codes.shape
        return rows, columns

    def part(self, name: str) -> np.ndarray:
        """Look up the stored values of a part.

        Raises:
            KeyError: The format has no such part.
        """
        for part in self.parts:
            if part.name == name:
                return part.values
        raise KeyError(f"{self.format} has the parts {', '.join(p.name for p in self.parts)}, but got {name!r}.")

    def bits(self) -> dict[str, float]:
        """Count stored bits by part: codes, padding, and each part by its name."""
        stored = {"codes": self.codes.size * self.code_bits, "padding": self.padding.size * self.code_bits}
        return stored | {part.name: part.values.size * part.bits for part in self.parts}

    def entropy(self) -> dict[str, float]:
        """Compute the entropy of codes and of each part [bit/symbol], padding excluded."""
        found = {"codes": entropy(np.bincount(self.codes.reshape(-1), minlength=1))}
        for part in self.parts:
            found[part.name] = symbol_entropy(part.values)
        return found


def symbol_entropy(values: np.ndarray) -> float:
    """Compute the entropy of stored values [bit/value], each with its bits as a symbol: −0.0 and 0.0 are two."""
    symbols = np.ascontiguousarray(values).reshape(-1)
    bits = symbols.view(f"u{symbols.dtype.itemsize}")
    if bits.dtype.itemsize <= _COUNTED and len(bits) > _MANY:
        return entropy(np.bincount(bits))
    return entropy(np.unique(bits, return_counts=True)[1])
