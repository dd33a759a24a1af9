"""Codes of indices."""

from typing import Literal

Coding = Literal["huffman", "fixed", "arithmetic", "context"]
CODINGS: tuple[Coding, ...] = ("huffman", "fixed", "arithmetic", "context")
