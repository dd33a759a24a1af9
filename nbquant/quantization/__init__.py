"""Quantization methods (k-means, uniform, ECSQ, trellis, error feedback): weights to codebooks and indices."""
