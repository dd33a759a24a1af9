"""Bit ledgers: every stored bit by part, so that a rate can be itemised."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import index

import pandas as pd

PARTS = ("payload", "code_table", "codebook", "position_payload", "position_table")
"""Parts of a quantized tensor; a ledger may have others."""


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Ledger(Mapping[str, int]):
    """Named parts in whole bits, in the given order.

    ``Ledger(payload=950, codebook=64)`` or from a mapping; ``+`` adds part by part. Parts of zero bits stay.

    Attributes:
        parts: Pairs of name and bits.

    Raises:
        ValueError: A negative part.
        TypeError: A part that is not a whole number.
    """

    parts: tuple[tuple[str, int], ...]

    def __init__(self, parts: Mapping[str, int] | None = None, /, **named: int) -> None:
        bits = {}
        for name, value in {**(parts or {}), **named}.items():
            try:
                bits[name] = index(value)
            except TypeError:
                raise TypeError(f"{name} must be a whole number of bits, but is {value!r}.") from None
            if bits[name] < 0:
                raise ValueError(f"{name} must be 0 bits or more, but is {bits[name]}.")
        object.__setattr__(self, "parts", tuple(bits.items()))

    def __getitem__(self, name: str) -> int:
        return dict(self.parts)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self.parts))

    def __len__(self) -> int:
        return len(self.parts)

    def __hash__(self) -> int:
        return hash(frozenset(self.parts))  # equality, Mapping's, ignores the order, too

    def __add__(self, other: "Ledger") -> "Ledger":
        """Add part by part; parts that only ``other`` has come last."""
        if not isinstance(other, Ledger):
            return NotImplemented
        return Ledger({name: self.get(name, 0) + other.get(name, 0) for name in {**self, **other}})

    @property
    def total(self) -> int:
        """Sum of the parts [bit]."""
        return sum(self.values())

    @property
    def shares(self) -> dict[str, float]:
        """Share of each part in the total; zero if the total is zero."""
        return {name: bits / self.total if self.total else 0.0 for name, bits in self.items()}

    def to_frame(self) -> pd.DataFrame:
        """Tabulate the parts: ``part``, ``bits``, ``share``."""
        return pd.DataFrame({"part": list(self), "bits": list(self.values()), "share": list(self.shares.values())})

    def __str__(self) -> str:
        rows = [(name, f"{bits:,}", f"{self.shares[name]:.1%}") for name, bits in self.items()]
        rows.append(("total", f"{self.total:,}", ""))
        name_width, bits_width = (max(len(row[column]) for row in rows) for column in (0, 1))
        return "\n".join(
            f"{name:<{name_width}}  {bits:>{bits_width}} bit  {share:>6}".rstrip() for name, bits, share in rows
        )

    def __repr__(self) -> str:
        return f"Ledger({', '.join(f'{name}={bits}' for name, bits in self.items())})"

    def _repr_html_(self) -> str:
        total = pd.DataFrame({"part": ["total"], "bits": [self.total], "share": [float(bool(self.total))]})
        frame = pd.concat([self.to_frame(), total])
        return frame.to_html(index=False, formatters={"bits": "{:,}".format, "share": "{:.1%}".format})


def fixed_length(levels: int) -> int:
    """Compute the codeword length of a fixed-length code: ⌈log2 k⌉.

    For k = 1 it is 0 bits, as in the paper's formula: all weights are equal and only the codebook is stored. (A
    Huffman code, whose codewords take at least one bit, spends 1 there.)

    Args:
        levels: Number of codewords k.

    Returns:
        Bits per symbol.

    Raises:
        ValueError: Fewer than one.

    Source: Choi et al. 2017 (arXiv:1612.01543), section 2.
    """
    if levels < 1:
        raise ValueError(f"levels must be 1 or more, but is {levels}.")
    return (index(levels) - 1).bit_length()
