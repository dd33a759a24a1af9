"""Lossless codes of integers: Huffman, arithmetic and context codes, positions of pruned weights, and bit ledgers."""
