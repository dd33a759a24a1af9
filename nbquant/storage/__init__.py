"""The compressed-model file: write, read, verify."""
