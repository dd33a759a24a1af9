"""The comparison of formats against each format quantized alone, and against theory."""

import math

import pandas as pd
import pytest
import torch
from torch import nn

import nbquant as nq
from nbquant.quantization.blocks import formats


@pytest.fixture(scope="module")
def selection():
    torch.manual_seed(0)
    net = nn.Linear(256, 64, bias=False)
    with torch.no_grad():
        net.weight.normal_()
        net.weight[:, :5] = 0
    return nq.select(net, {"weight": torch.rand(64, 256) + 0.1})


@pytest.fixture(scope="module")
def rows(selection):
    return nq.compare_formats(selection, ["q4_0", "iq4_nl", "int8/channel"], progress=False)


def test_rows_are_what_fit_gives(selection, rows):
    assert list(rows["format"]) == ["q4_0", "q4_0", "iq4_nl", "iq4_nl", "int8/channel", "int8/channel"]
    assert list(rows["search"]) == [False, True] * 3
    for row in rows.itertuples():
        found = nq.fit(selection, row.format, search=row.search)
        assert row.rate == found.rate
        assert row.distortion == found.distortion
        assert row.predicted_loss_increase == found.predicted_loss_increase
        restored = found.dequantize()["weight"]
        w = selection.tensors[0].weight
        assert row.relative_error == pytest.approx(float(((w - restored) ** 2).sum() / (w**2).sum()), rel=1e-5)
        assert row.zeros_lost == int(((w == 0) & (restored != 0)).sum())
        assert row.signs_flipped == int((w * restored < 0).sum())
        arithmetic = nq.fit(selection, row.format, search=row.search, coding="arithmetic")
        assert row.entropy == pytest.approx(arithmetic.rate - arithmetic.ledger["code_table"] / len(found), abs=0.05)


def test_what_is_wasted_is_relative_to_the_bound(selection, rows):
    for row in rows.itertuples():
        assert row.bits_wasted == pytest.approx(row.rate - row.bound_rate)
        assert 0.2 < row.bits_wasted < 2
    eight = rows[rows["format"] == "int8/channel"].iloc[0]
    assert eight["decibels_lost"] == pytest.approx(20 * math.log10(2) * eight["bits_wasted"], rel=0.1)


def test_iq4_nl_has_no_zero(rows):
    lost = rows.set_index(["format", "search"])["zeros_lost"]
    assert lost["iq4_nl", False] == 5 * 64
    assert lost["q4_0", False] == 0


def test_all_formats_are_compared_by_default():
    torch.manual_seed(0)
    rows = nq.compare_formats(nq.select(nn.Linear(8, 3)), progress=False)
    assert list(rows["format"].unique()) == list(formats.names())
    assert rows[["title", "library", "rate", "distortion"]].notna().all(axis=None)


@pytest.mark.parametrize(
    ("call", "error", "told"),
    [
        (lambda s: nq.compare_formats(s, ["q4"]), ValueError, "block format must be one of .* got 'q4': did you mean"),
        (lambda s: nq.compare_formats(s, []), ValueError, "at least one block format is required"),
        (lambda s: nq.compare_formats(nn.Linear(2, 2)), TypeError, "selection must be a selection"),
        (lambda s: nq.plot.formats(s), TypeError, "rows must be a table"),
    ],
)
def test_errors_say_what_was_required(selection, call, error, told):
    with pytest.raises(error, match=told):
        call(selection)


def test_by_layer_each_layer_is_compared_by_itself():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 8, bias=False), nn.Linear(8, 32, bias=False), nn.Linear(32, 4, bias=False))
    nn.init.ones_(model[2].weight)
    selection = nq.select(model)
    rows = nq.compare_formats(selection, ["q4_0", "nf4"], by_layer=True, progress=False)
    assert list(rows["layer"]) == ["0"] * 4 + ["1"] * 4 + ["2"] * 4
    for layer, part in list(selection.by_layer().items())[:2]:
        alone = nq.compare_formats(part, ["q4_0", "nf4"], progress=False)
        own = rows[rows["layer"] == layer].drop(columns="layer").reset_index(drop=True)
        pd.testing.assert_frame_equal(own, alone)
    assert rows["bound_rate"][8:].isna().all()
