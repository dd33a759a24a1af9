"""All tensors that a format cannot hold are named at once."""

import pytest

from nbquant.storage.unfit import MOST_NAMED, convert_all


def even(name, number):
    if number % 2:
        raise ValueError(f"{name!r} is odd: leave it out.")
    return number // 2


def test_what_fits_is_converted():
    assert convert_all({"a": 2, "b": 4}, even) == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"a": 2, "b": 3}, "'b' is odd: leave it out."),
        ({"a": 1, "b": 3, "c": 2}, "'a' is odd: leave it out. 'b' does not fit either."),
        ({"a": 1, "b": 3, "c": 5}, "'a' is odd: leave it out. 'b', 'c' do not fit either."),
    ],
)
def test_what_does_not_fit_is_named(numbers, message):
    with pytest.raises(ValueError, match="odd") as caught:
        convert_all(numbers, even)
    assert str(caught.value) == message


def test_of_many_a_few_are_named():
    with pytest.raises(ValueError, match=r"'t8' and 3 more do not fit either\."):
        convert_all({f"t{i}": 1 for i in range(MOST_NAMED + 4)}, even)
