"""Weights of a module, evaluation, the bundled networks and their data."""
