"""CPU kernels, compiled by numba; ``reference`` is their definition.

No kernel is parallel inside: numba's thread pools must not be entered from two Python threads at once, which a notebook
with a background worker does. Kernels release the GIL, so that callers may split work over their own threads.
"""
