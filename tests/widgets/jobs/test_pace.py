import pytest

from nbquant.widgets.jobs.pace import Pace, duration


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_done_rate_and_time_left():
    clock = Clock()
    pace = Pace(clock)
    assert pace.told(0, None) == ""
    clock.now = 50.0
    assert pace.told(7, None) == "7"
    assert pace.told(0, 40) == "0 of 40"
    for _ in range(4):
        clock.now += 1.0
        text = pace.told(int(3 * (clock.now - 50)), 40)
    assert text == "12 of 40, 3/s, 9 s left"
    assert pace.told(40, 40).startswith("40 of 40, ")
    assert "left" not in pace.told(40, 40)


def test_another_count_starts_anew():
    clock = Clock()
    pace = Pace(clock)
    pace.told(0, 10)
    clock.now = 1.0
    assert "/s" in pace.told(5, 10)
    assert pace.told(0, 20) == "0 of 20"
    clock.now = 2.0
    assert "/s" in pace.told(5, 20)
    assert pace.told(1, 20) == "1 of 20"


def test_an_estimated_total_may_change():
    clock = Clock()
    pace = Pace(clock)
    assert pace.told(0.0, 4.0) == "0 %"
    clock.now = 4.0
    assert pace.told(1.0, 5.0) == "20 %, 16 s left"
    clock.now = 8.0
    assert pace.told(2.0, 4.0) == "50 %, 8 s left"
    assert pace.told(4.0, 4.0) == "100 %"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "under 1 s"), (9.4, "9 s"), (99, "99 s"), (120, "2 min"), (9000, "2.5 h")]
)
def test_times_as_people_say_them(seconds, text):
    assert duration(seconds) == text
