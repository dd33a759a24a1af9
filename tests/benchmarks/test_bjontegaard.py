"""The mean difference in bytes at equal divergence, on curves of which it is known."""

import math

import pytest

from tests.benchmarks.bjontegaard import more_bytes

BASIS = [(1000, 0.1), (2000, 0.01), (4000, 0.001)]


def test_a_curve_of_fewer_bytes_everywhere_saves_that_share():
    assert more_bytes([(0.7 * size, kl) for size, kl in BASIS], BASIS) == pytest.approx(-0.3)
    assert more_bytes(BASIS, BASIS) == 0


def test_only_common_divergences_count_and_points_need_not_be_the_same():
    """Bytes double when KL falls to a tenth: KL of a third at equal bytes is log₁₀(3) of a doubling."""
    better = [(size, kl / 3) for size, kl in BASIS]
    assert more_bytes(better, BASIS) == pytest.approx(2 ** -math.log10(3) - 1)
    assert more_bytes(better[::-1], BASIS[1:]) == pytest.approx(2 ** -math.log10(3) - 1)


def test_curves_that_never_meet_have_none():
    assert math.isnan(more_bytes([(10, 5.0), (20, 2.0)], BASIS))
