"""See, understand and choose neural-network weight quantization in a Jupyter notebook."""

__version__ = "0.1.0"
