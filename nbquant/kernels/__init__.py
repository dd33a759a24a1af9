"""Kernels for the loops over weights: reference (plain torch, the definition), cpu (numba) and cuda (Triton)."""
