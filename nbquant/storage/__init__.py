"""The compressed-model file: written, read, and every bit of it accounted for; ``FORMAT.md`` has its layout."""
