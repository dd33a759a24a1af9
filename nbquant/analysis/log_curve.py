"""Curves of distortion over rate that are read at any rate and distortion, also beyond their points."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from nbquant.analysis.bounds import largest_distortion, rate_distortion_bound
from nbquant.analysis.statistics import Statistics

SLOPES = 8  # points of the bound
SLOPE_RANGE = (0.5, 4e-3)  # in units of 2 ln 2 times the distortion of a single level
GAP = 0.02  # tolerance of the bound [bit/weight]


@dataclass(frozen=True)
class LogCurve:
    """A curve of distortion over rate: log D is linear in R between points, and beyond the finest one.

    At high rates R(D) grows by at most half a bit for each halving of D, and by less if some weights are zero or few
    values occur: beyond the finest point the last slope is kept, unless it is flatter than that, as between the few
    weights of a small tensor. So what lies beyond is not overstated.
    """

    at: Float[np.ndarray, " p"]
    log_distortion: Float[np.ndarray, " p"]

    @staticmethod
    def of(rate: Float[np.ndarray, " p"], distortion: Float[np.ndarray, " p"], worst: float) -> "LogCurve":
        """Make the curve through points, and through no bits at the worst distortion."""
        rate, distortion = np.append(rate, 0.0), np.append(distortion, worst)
        kept = distortion > 0
        order = np.argsort(rate[kept], kind="stable")
        logs = np.minimum.accumulate(np.log(distortion[kept][order]))
        first = np.concatenate([[True], np.diff(logs) < 0])
        return LogCurve(rate[kept][order][first], logs[first])

    def rate(self, distortion: float) -> float:
        """Compute the rate at a distortion [bit/weight]."""
        log = math.log(distortion)
        if log < self.log_distortion[-1]:
            return float(self.at[-1] + (self.log_distortion[-1] - log) / self._slope)
        return float(np.interp(-log, -self.log_distortion, self.at))

    def distortion(self, rate: float) -> float:
        """Compute the distortion at a rate [loss/weight]; 0 where it is too small for a float."""
        return math.exp(self.log_at(rate))

    def log_at(self, rate: float) -> float:
        """Compute the natural logarithm of the distortion at a rate, which exists at any rate."""
        if rate > self.at[-1]:
            return float(self.log_distortion[-1] - (rate - self.at[-1]) * self._slope)
        return float(np.interp(rate, self.at, self.log_distortion))

    def decibels_lost(self, distortion: float, rate: float) -> float:
        """Compute how far a distortion is above that of the curve at the same rate [dB]."""
        return 10 / math.log(10) * (math.log(distortion) - self.log_at(rate))

    @property
    def _slope(self) -> float:
        """Fall of log D per bit at the fine end."""
        limit = 2 * math.log(2)
        if len(self.at) < 2:
            return limit
        last = float((self.log_distortion[-2] - self.log_distortion[-1]) / (self.at[-1] - self.at[-2]))
        return max(last, limit)


def bound_curve(statistics: Statistics) -> LogCurve:
    """Compute the rate-distortion function of a selection whose weights differ.

    Raises:
        ValueError: All weights are equal.
    """
    worst = largest_distortion(statistics)
    lmbdas = np.geomspace(*SLOPE_RANGE, SLOPES) * 2 * math.log(2) * worst
    bound = rate_distortion_bound(statistics, lmbdas=lmbdas, gap=GAP, progress=False)
    return LogCurve.of(bound.rate, bound.distortion, worst)
