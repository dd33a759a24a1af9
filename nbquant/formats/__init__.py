"""Formats of checkpoints, one a file, and how other libraries name weights that they have quantized."""
