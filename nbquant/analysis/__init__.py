"""What a quantizer means: operating points, curves, target solving."""
