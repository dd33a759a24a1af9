"""The hot loops: reference (plain torch, the definition) and cpu (numba)."""
