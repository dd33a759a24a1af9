import pytest
import torch

from nbquant.quantization.selection import Selection
from nbquant.quantization.tensor import SelectedTensor


def example():
    sizes = {"a.weight": 6, "a.bias": 2, "b.weight": 5, "c.weight": 0}
    dtypes = {"b.weight": torch.bfloat16}
    tensors = [
        SelectedTensor(name, name[0], torch.arange(float(n)).to(dtypes.get(name, torch.float32)))
        for name, n in sizes.items()
    ]
    return Selection(tuple(tensors), unselected_bits=100, unselected_count=7)


def test_a_part_holds_the_same_tensors_and_counts_the_others():
    whole = example()
    for layers in (["a"], "a", {"a"}, ("a",)):
        part = whole.part(layers)
        assert part.tensors == whole.tensors[:2]
        assert (part.unselected_bits, part.unselected_count) == (100 + 16 * 5, 7 + 5)
        assert part.source_bits + part.unselected_bits == whole.source_bits + whole.unselected_bits
        assert len(part) + part.unselected_count == len(whole) + whole.unselected_count
    assert whole.part(["b", "c", "a"]).layers == ("a", "b", "c")


def test_a_part_looks_at_no_weight():
    broken = SelectedTensor("x.weight", "x", torch.full((3,), float("nan")))
    assert Selection((broken,)).part(["x"]).tensors == (broken,)


@pytest.mark.parametrize(
    ("layers", "message"),
    [([], r"layers=\[\] came"), (["a", "z"], "'z' is not among them"), (["c"], r"layers=\['c'\] came")],
)
def test_parts_that_there_are_not(layers, message):
    with pytest.raises(ValueError, match=f"in the 3 layers of this selection is required, but {message}"):
        example().part(layers)


def test_is_itself_only():
    first, second = example(), example()
    assert len({first, second}) == 2
    assert first != second
    assert {first.tensors[0]: 1}[first.tensors[0]] == 1
