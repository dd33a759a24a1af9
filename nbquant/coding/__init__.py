"""Lossless codes: entropy, Huffman, positions and the ledger of bits. Knows integers only."""
