"""Checkpoint formats, one per file, and the naming of weights already quantized by other libraries."""
