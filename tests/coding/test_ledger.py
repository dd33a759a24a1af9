import math
import pickle
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbquant.coding.ledger import PARTS, Ledger, fixed_length

LEDGERS = st.dictionaries(st.sampled_from([*PARTS, "container"]), st.integers(0, 10**12)).map(Ledger)


def test_reads_as_a_mapping_in_the_order_given():
    ledger = Ledger(payload=950, code_table=0, codebook=np.int64(64))
    assert dict(ledger) == {"payload": 950, "code_table": 0, "codebook": 64}
    assert list(ledger) == ["payload", "code_table", "codebook"]
    assert ledger.total == 1014
    assert type(ledger["codebook"]) is int
    assert Ledger({"unquantized": 3}, payload=1) == {"unquantized": 3, "payload": 1}
    with pytest.raises(KeyError):
        ledger["container"]


@given(LEDGERS, LEDGERS, LEDGERS)
def test_addition_adds_parts_and_totals(a, b, c):
    assert (a + b).total == a.total + b.total
    assert all((a + b)[name] == a.get(name, 0) + b.get(name, 0) for name in {**a, **b})
    assert (a + b) + c == a + (b + c)
    assert a + b == b + a
    assert hash(a + b) == hash(b + a)
    assert sum((a, b, c), Ledger()) == a + b + c


def test_addition_keeps_the_order_of_the_first():
    assert list(Ledger(payload=1, codebook=2) + Ledger(container=1, payload=1)) == ["payload", "codebook", "container"]
    with pytest.raises(TypeError):
        Ledger() + 3


def test_text_aligns_parts_bits_and_shares():
    text = str(Ledger(payload=1500, code_table=0, codebook=500))
    assert text == (
        "payload     1,500 bit   75.0%\n"
        "code_table      0 bit    0.0%\n"
        "codebook      500 bit   25.0%\n"
        "total       2,000 bit"
    )  # fmt: skip
    assert repr(Ledger(payload=1)) == "Ledger(payload=1)"


@given(LEDGERS)
def test_frame_sums_to_the_total(ledger):
    frame = ledger.to_frame()
    assert list(frame.columns) == ["part", "bits", "share"]
    assert int(frame["bits"].sum()) == ledger.total
    assert math.isclose(frame["share"].sum(), float(ledger.total > 0))
    assert f"{ledger.total:,}" in ledger._repr_html_()


def test_is_a_frozen_value():
    ledger = Ledger(payload=1)
    assert pickle.loads(pickle.dumps(ledger)) == ledger
    with pytest.raises(FrozenInstanceError):
        ledger.parts = ()


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (-1, ValueError, "payload must be 0 bits or more, but is -1"),
        (1.5, TypeError, "whole number of bits, but is 1.5"),
    ],
)
def test_what_is_no_number_of_bits_is_refused(value, error, message):
    with pytest.raises(error, match=message):
        Ledger(payload=value)


def test_fixed_length_is_the_rounded_up_logarithm():
    assert [fixed_length(k) for k in (1, 2, 3, 4, 5, 31, 32, 33)] == [0, 1, 2, 2, 3, 5, 5, 6]
    assert all(2 ** fixed_length(k) >= k > 2 ** (fixed_length(k) - 1) for k in range(2, 3000))
    with pytest.raises(ValueError, match="1 or more, but is 0"):
        fixed_length(0)
