"""The fields of a float rebuild its value, and the picture shows them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbquant.course.float_bits import FORMATS, draw_float_bits, float_bits_data, show

NUMBERS = st.floats(-448, 448, allow_nan=False)


@given(NUMBERS)
def test_fields_rebuild_the_value(number):
    for each in float_bits_data(number).stored:
        bits = each.form.mantissa_bits
        exponent, lead = (each.exponent, 1) if each.exponent else (1, 0)
        value = math.ldexp(lead + each.mantissa / (1 << bits), exponent - each.form.bias)
        assert (-value if each.sign else value) == each.value
        assert len(each.text) == each.form.bits


@given(NUMBERS)
def test_fields_are_those_of_numpy(number):
    """numpy writes float32 and float16 in the same bits."""
    found = {each.form.name: each.text for each in float_bits_data(number).stored}
    assert int(found["float32"], 2) == int(np.float32(number).view(np.uint32))
    assert int(found["float16"], 2) == int(np.float16(number).view(np.uint16))


def test_example_by_hand():
    """1.1 in E4M3: the mantissa 1 of 8 is nearest, at the exponent 0."""
    found = float_bits_data(1.1).stored[-1]
    assert (found.text, found.value, found.formula) == ("00111001", 1.125, "2^(7 − 7) · (1 + 1/8)")
    assert found.error == pytest.approx(0.025 / 1.1)


@pytest.mark.parametrize(
    ("number", "texts"),
    [
        (1e6, ["too large", "off by 100 %"]),
        (0.0, ["exact"]),
        (2.0**-9, ["exact"]),
    ],
)
def test_ends_of_the_range(number, texts):
    """float16 becomes infinite, E4M3 stays at 448; its least subnormal number is exact."""
    summary = float_bits_data(number).summary
    assert all(text in summary for text in texts)


def test_subnormal_formula():
    assert float_bits_data(-(2.0**-9)).stored[-1].formula == "−2^−6 · 1/8  (subnormal)"


def test_picture_follows_the_sliders():
    live = show()
    before = live.box.children[1].value
    live.controls["power"].value = 17
    live.controls["sign"].value = -1
    after = live.box.children[1].value
    assert before != after
    assert "too large" in after
    assert live.summary.startswith("-144179.2")
    texts = {text.get_text() for text in draw_float_bits(float_bits_data(1.1)).axes[0].texts}
    assert {form.name for form in FORMATS} | {"1.125", "sign"} <= texts
