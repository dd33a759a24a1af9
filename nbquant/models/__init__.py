"""Models: selection of weights, evaluation, and the bundled networks with their data."""
