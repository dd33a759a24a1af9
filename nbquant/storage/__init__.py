"""Storage of quantized models in .nbq files, with every bit accounted for; ``FORMAT.md`` defines the format."""
