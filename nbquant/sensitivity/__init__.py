"""Estimators of the Hessian diagonal, the loss's sensitivity to each weight: one a file."""

from nbquant.sensitivity.estimate import METHODS, Method, sensitivity
from nbquant.sensitivity.result import Sensitivity

__all__ = ["METHODS", "Method", "Sensitivity", "sensitivity"]
