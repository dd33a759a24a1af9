"""How much the loss minds a change of each weight: one estimator a file."""

from nbquant.sensitivity.estimate import METHODS, Method, sensitivity
from nbquant.sensitivity.result import Sensitivity

__all__ = ["METHODS", "Method", "Sensitivity", "sensitivity"]
