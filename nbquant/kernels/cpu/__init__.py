"""The hot loops on the CPU, compiled by numba; ``reference`` is their definition.

No loop is parallel inside: numba's thread pools must not be entered from two Python threads at once, which a notebook
with a background worker does. The loops release the GIL, so that callers may split work over threads of their own.
"""
