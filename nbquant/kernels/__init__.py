"""The hot loops: reference (plain torch, the definition), cpu (numba) and cuda (Triton)."""
