"""Block formats of other libraries: codes, scales and bytes; their own encoders and searches for better scales."""
