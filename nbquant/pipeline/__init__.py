"""Training steps: pruning, fine-tuning of codebooks, and training of the bundled networks."""
