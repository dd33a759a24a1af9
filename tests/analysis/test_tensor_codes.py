"""Codes of a tensor of a quantized file, against the whole tensor."""

import numpy as np
import pytest

from nbquant.analysis.tensor_codes import tensor_codes
from nbquant.formats import packed_tensor
from nbquant.formats.packed_tensor import PackedTensor
from nbquant.quantization.blocks import formats


def packed(values, form):
    encoded = form.encode(values) if form is not None else None

    def codes(first, last):
        return form.encode(values[first:last])

    def restored(first, last):
        return values[first:last] if form is None else form.decode(codes(first, last))

    bits = int(sum(encoded.bits().values())) if encoded else 32 * values.size
    return PackedTensor("t", values.shape, "nf4" if form else "F32", form, bits, codes if form else None, restored)


@pytest.mark.parametrize("name", ["nf4", "q4_1", "int8/32"])
def test_counts_means_and_bars_are_those_of_the_whole(name, monkeypatch):
    monkeypatch.setattr(packed_tensor, "PIECE", 300)
    values = np.random.default_rng(0).standard_normal((20, 128)).astype(np.float32)
    form = formats.named(name)
    found = tensor_codes(packed(values, form))
    whole = form.encode(values)
    restored = form.decode(whole)
    codes = whole.codes.reshape(-1)
    np.testing.assert_array_equal(found.count, np.bincount(codes, minlength=len(form.levels)))
    for code in np.unique(codes):
        own = restored.reshape(-1)[codes == code].astype(np.float64)
        assert found.mean[code] == pytest.approx(own.mean(), abs=1e-6)
        assert found.spread[code] == pytest.approx(own.std(), abs=1e-4)
    np.testing.assert_array_equal(found.height, np.histogram(restored, found.edge)[0])
    assert found.height.sum() == values.size
    assert found.blocks == len(whole.parts[0].values)


def test_unquantized_tensors_have_bars_only():
    found = tensor_codes(packed(np.ones((2, 8), np.float32), None))
    assert len(found.level) == 0
    assert found.height.sum() == 16


def test_damaged_and_unknown_tensors_are_refused():
    with pytest.raises(ValueError, match="none is finite"):
        tensor_codes(packed(np.full((2, 8), np.nan, np.float32), None))
    unknown = PackedTensor("t", (2, 8), "q9", None, 64, None, None)
    with pytest.raises(ValueError, match="stored as q9"):
        tensor_codes(unknown)
