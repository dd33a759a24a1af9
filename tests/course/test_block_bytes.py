"""The bits of a weight are those that its format documents, and its formula gives what the package decodes."""

import numpy as np
import pytest
import torch

from nbquant.course.block_bytes import FORMATS, block_bytes_data, draw_block_bytes, show
from nbquant.quantization.blocks.formats import named

WEIGHT = np.random.default_rng(0).normal(size=256).astype(np.float32)


def computed(formula):
    """Evaluate the formula of the picture."""
    if "level" in formula:
        formula = formula.split("level")[0] + formula.split("level")[1].strip().split(" ")[1]
    if formula.startswith("E4M3("):
        byte, _, rest = formula.removeprefix("E4M3(").partition(")")
        formula = f"{float(torch.tensor([int(byte)], dtype=torch.uint8).view(torch.float8_e4m3fn))}{rest}"
    return eval(formula.replace("−", "-").replace("·", "*").replace("^", "**"), {})


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("index", [0, 5, 31, 37, 63, 133, 255])
def test_formula_gives_the_value(name, index):
    data = block_bytes_data(WEIGHT, name, index)
    form = named(name)
    restored = form.decode(form.encode(WEIGHT[None, : form.length]))[0]
    assert data.value == restored[index % form.length]
    assert computed(data.formula) == pytest.approx(data.value, abs=2e-3)  # the formula shows six decimals


@pytest.mark.parametrize("name", FORMATS)
def test_only_used_bits_change_the_weight(name):
    """Flip every bit and decode: a bit that is not marked leaves the weight as it is."""
    form = named(name)
    data = block_bytes_data(WEIGHT, name, 6)
    codes = form.encode(WEIGHT[None, : form.length])
    raw = form.pack(codes)
    apart = {} if form.layout.fields else {"scale": codes.part("scale")}
    used = data.used[len(data.content) - len(raw) :]
    changed = np.zeros_like(used)
    for byte in range(len(raw)):
        for bit in range(8):
            other = raw.copy()
            other[byte] ^= 128 >> bit
            restored = form.decode_bytes(other, (1, form.length), apart)[0, 6]
            changed[byte, bit] = restored != data.value
    assert not (changed & ~used).any()
    assert changed.sum() >= used.sum() - 8  # a bit of a scale whose factor is 0 changes nothing


@pytest.mark.parametrize(
    ("name", "used", "size"), [("nf4", 32 + 4, 36), ("mxfp4_gguf", 8 + 4, 17), ("nvfp4_gguf", 8 + 4, 36)]
)
def test_number_of_bits(name, used, size):
    data = block_bytes_data(WEIGHT, name, 3)
    assert (data.used.sum(), len(data.content)) == (used, size)


def test_q4_k_by_its_documentation():
    """Weight 133 is in group 4, whose scale and minimum are spread over three of the twelve bytes."""
    used = block_bytes_data(WEIGHT, "q4_k", 133).used
    assert np.flatnonzero(used.any(axis=1)).tolist() == [0, 1, 2, 3, 4, 8, 12, 16 + 64 + 5]
    assert used[4].tolist() == used[8].tolist() == [True, True, *[False] * 6]
    assert used[12].all()
    assert used[85].tolist() == [False] * 4 + [True] * 4
    assert used.sum() == 4 * 8 + 6 + 6 + 4


def test_picture_follows_the_controls():
    live = show(WEIGHT)
    assert "depends on 48 of these bits" in live.summary
    live.controls["name"].value = "mxfp4_gguf"
    live.controls["index"].value = 40
    assert "17 bytes for 32 weights" in live.box.children[1].value
    assert "Weight 8 depends" in live.summary
    axes = draw_block_bytes(block_bytes_data(WEIGHT, "q4_k", 0)).axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert {"scale", "minimum", "codes", "bits of weight 0"} <= set(texts)
