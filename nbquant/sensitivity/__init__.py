"""Estimators of the Hessian diagonal, the loss's sensitivity to each weight: one per file."""

from nbquant.sensitivity.estimate import sensitivity
from nbquant.sensitivity.result import Sensitivity

__all__ = ["Sensitivity", "sensitivity"]
