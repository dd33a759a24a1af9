"""Errors of a difference over the number of samples: by hand, by formula, and by experiment."""

import numpy as np
import pytest

from nbquant.course.sample_count import draw_sample_count, sample_count_data, show

RANDOM = np.random.default_rng(0)
FIRST = RANDOM.normal(size=4000)
SECOND = 0.9 * FIRST + 0.1 * RANDOM.normal(size=4000) + 0.02


def test_by_hand():
    """Differences 1, 1, 3, 3: their standard deviation is √(4/3), that of the samples alone is √(8/3)."""
    first = np.array([0.0, 2.0, 0.0, 2.0])
    second = first + np.array([1.0, 1.0, 3.0, 3.0])
    data = sample_count_data(first, second, 2)
    assert data.difference == 2
    assert data.groups.tolist() == [1, 3]
    assert data.paired == pytest.approx((4 / 3 / 2) ** 0.5)
    assert data.unpaired == pytest.approx((4 / 3 / 2 + second.var(ddof=1) / 2) ** 0.5)
    assert data.needed[0] == pytest.approx(4 / 3)


@pytest.mark.parametrize("count", [50, 200])
def test_paired_error_is_the_spread_of_the_groups(count):
    data = sample_count_data(FIRST, SECOND, count)
    assert len(data.groups) == 4000 // count
    assert data.groups.std(ddof=1) == pytest.approx(data.paired, rel=0.4)
    assert data.paired < data.unpaired / 5


def test_variances_add_minus_twice_the_covariance():
    data = sample_count_data(FIRST, SECOND, 100)
    covariance = np.cov(FIRST, SECOND)[0, 1]
    assert data.paired**2 == pytest.approx(data.unpaired**2 - 2 * covariance / 100)


def test_four_times_the_samples_halve_the_error():
    few, many = (sample_count_data(FIRST, SECOND, count) for count in (100, 400))
    assert few.paired == pytest.approx(2 * many.paired)
    assert few.needed == many.needed
    assert sample_count_data(FIRST, FIRST, 100).needed == (np.inf, np.inf)


@pytest.mark.parametrize("count", [1, 4001])
def test_impossible_counts(count):
    with pytest.raises(ValueError, match="from 2 to 4000 samples"):
        sample_count_data(FIRST, SECOND, count)


def test_picture_follows_the_controls():
    live = show({"a": (FIRST, SECOND, "nat"), "b": (FIRST, -FIRST, "points")}, 100)
    assert live.controls["count"].options[-1][1] == 2000
    assert live.summary.startswith("100 samples")
    live.controls["measure"].value = "b"
    live.controls["count"].value = 2000
    assert "2,000 samples" in live.box.children[1].value
    assert "points" in live.box.children[1].value
    left, right = draw_sample_count(sample_count_data(FIRST, SECOND, 2000, "nat")).axes
    assert left.get_title(loc="left") == "2 groups of 2,000 samples"
    assert "nat" in right.get_ylabel()
