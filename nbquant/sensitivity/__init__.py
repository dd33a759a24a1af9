"""Estimators of the Hessian diagonal, one a file."""
