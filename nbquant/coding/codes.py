"""Registry of index codes."""

from nbquant import registry
from nbquant.coding.arithmetic import ARITHMETIC
from nbquant.coding.code import Code
from nbquant.coding.context import CONTEXT
from nbquant.coding.fixed import FIXED
from nbquant.coding.huffman import HUFFMAN

CODES: tuple[Code, ...] = (HUFFMAN, FIXED, ARITHMETIC, CONTEXT)
"""All codes, in the order of menus. Read as ``codes.CODES``, so that additions are seen."""


def names() -> tuple[str, ...]:
    """List the names of all codes."""
    return tuple(code.name for code in CODES)


def named(name: str) -> Code:
    """Look up a code by its name.

    Raises:
        ValueError: An unknown name (names the nearest).
    """
    return registry.find(CODES, name, "coding")


def stored_as(name: str) -> tuple[Code, ...]:
    """List the codes with this name in files."""
    return tuple(code for code in CODES if code.stored == name)


def stored_names(major: int) -> tuple[str, ...]:
    """List the names of codes in files of a major version: version 3 has all, for block formats."""
    return tuple(dict.fromkeys(code.stored for code in CODES if major in (code.major, 3)))
