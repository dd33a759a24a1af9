import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nbquant.models.lenet import LeNet5
from nbquant.models.select import select


def ones(model):
    return {name: torch.ones_like(p, dtype=torch.float32) for name, p in model.named_parameters()}


def names(selection):
    return [tensor.name for tensor in selection]


def test_all_of_the_model_in_its_order():
    model = LeNet5()
    selection = select(model)
    assert names(selection) == [name for name, _ in model.named_parameters()]
    assert selection.layers == ("conv1", "conv2", "fc1", "fc2")
    assert len(selection) == 431_080
    assert (selection.unselected_bits, selection.unselected_count) == (0, 0)
    assert selection.sensitivity is None


@given(st.lists(st.sampled_from(["conv1", "conv2", "fc1", "fc2", "fc1.bias", "conv*", "*.weight"]), min_size=1))
def test_order_is_the_models_and_nothing_twice_and_nothing_lost(layers):
    model = nn.ModuleDict(
        {"conv1": nn.Conv2d(1, 2, 2), "conv2": nn.Conv2d(2, 1, 1), "fc1": nn.Linear(2, 3), "fc2": nn.Linear(3, 1)}
    )
    selection = select(model, layers=layers)
    order = [name for name, _ in model.named_parameters()]
    assert names(selection) == sorted(set(names(selection)), key=order.index)
    total = sum(p.numel() for p in model.parameters())
    assert len(selection) + selection.unselected_count == total
    assert selection.source_bits + selection.unselected_bits == 32 * total
    assert select(model, layers=layers[::-1]).layers == selection.layers


def test_weights_and_sensitivities_are_detached_and_belong_together():
    model = LeNet5()
    h = {name: torch.rand_like(p) for name, p in model.named_parameters()}
    selection = select(model, h, [model.fc2, "conv1.weight"])
    assert names(selection) == ["conv1.weight", "fc2.weight", "fc2.bias"]
    for tensor in selection:
        assert not tensor.weight.requires_grad
        assert tensor.weight.data_ptr() == model.get_parameter(tensor.name).data_ptr()
        assert torch.equal(tensor.sensitivity, h[tensor.name].detach())
        assert not tensor.sensitivity.requires_grad
    assert selection.sensitivity.shape == selection.weight.shape


class Mixed(nn.Module):
    """Tied, half-precision, integer, persistent and computed tensors."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Embedding(7, 3)
        self.norm = nn.BatchNorm1d(3)
        self.decoder = nn.Linear(3, 7)
        self.decoder.weight = self.encoder.weight
        self.half = nn.Linear(3, 2, dtype=torch.bfloat16)
        self.packed = nn.Linear(3, 2)
        self.packed.weight = nn.Parameter(torch.zeros(2, 3, dtype=torch.int8), requires_grad=False)
        self.register_buffer("table", torch.zeros(5, dtype=torch.int16))
        self.register_buffer("computed", torch.zeros(1000), persistent=False)


PARAMETER_BITS = 32 * (21 + 3 + 3 + 7 + 2) + 16 * 8 + 8 * 6
BUFFER_BITS = 32 * 6 + 64 + 16 * 5


def test_tied_weights_are_one_under_either_name():
    model = Mixed()
    assert names(select(model, layers="decoder")) == ["encoder.weight", "decoder.bias"]
    assert names(select(model, layers=["decoder.weight", "encoder"])) == ["encoder.weight"]
    h = {"decoder.weight": torch.full((7, 3), 2.0)}
    assert select(model, h, "encoder").sensitivity.tolist() == [2.0] * 21


def test_everything_else_is_counted_once():
    selection = select(Mixed(), layers="encoder")
    assert selection.unselected_count == 3 + 3 + 7 + 2 + 8 + 6
    assert selection.unselected_bits == PARAMETER_BITS - 32 * 21 + BUFFER_BITS


def test_shared_module_is_one():
    layer = nn.Linear(2, 2)
    selection = select(nn.ModuleDict({"a": layer, "b": layer}), layers="b")
    assert names(selection) == ["a.weight", "a.bias"]
    assert selection.unselected_bits == 0


def test_integer_parameters_stay_behind_unless_named():
    model = Mixed()
    assert "packed.weight" not in names(select(model))
    assert names(select(model, layers="packed*")) == ["packed.bias"]
    assert select(model).unselected_bits == 48 + BUFFER_BITS
    for layers in ("packed", "packed.weight", model.packed):
        with pytest.raises(ValueError, match=r"must be float32, .*, but 'packed\.weight' is int8: leave it out"):
            select(model, layers=layers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_dtype_follows_the_weights(dtype):
    selection = select(nn.Linear(3, 2, dtype=dtype), {"weight": torch.ones(2, 3), "bias": torch.ones(2)})
    assert selection.weight.dtype == dtype
    assert selection.sensitivity.dtype == torch.float32
    assert selection.source_bits == 8 * torch.empty(0, dtype=dtype).element_size() * 8


def test_mixed_dtypes_are_counted_as_they_are():
    assert select(Mixed(), layers=["half", "norm"]).source_bits == 16 * 8 + 32 * 6


def test_other_floats_are_not_quantizable():
    model = nn.ParameterDict({"w": nn.Parameter(torch.zeros(4).to(torch.float8_e5m2), requires_grad=False)})
    with pytest.raises(ValueError, match="'w' is float8_e5m2"):
        select(model, layers="w")
    with pytest.raises(ValueError, match=r"at least one weight in float32, .* but the model has none"):
        select(model)


def test_selection_without_weights_says_what_came():
    with pytest.raises(ValueError, match="is required, but the model has none"):
        select(nn.ReLU())
    with pytest.raises(ValueError, match=r"is required, but layers='\*ed\.w\*' has none"):
        select(Mixed(), layers="*ed.w*")


@pytest.mark.parametrize("layers", ["fc3", ["fc1", "fc3"]])
def test_unknown_layer_gets_the_nearest(layers):
    with pytest.raises(ValueError, match=r"the name 'fc3': did you mean 'fc2', 'fc1'"):
        select(LeNet5(), layers=layers)


@pytest.mark.parametrize("values", [(float("nan"),) * 2, (float("inf"), float("nan"))])
def test_weights_that_are_not_finite(values):
    model = LeNet5()
    with torch.no_grad():
        model.fc2.weight.view(-1)[:2] = torch.tensor(values)
    with pytest.raises(ValueError, match=r"weights must be finite, but 2 of 5000 in 'fc2\.weight' are not \("):
        select(model)
    assert len(select(model, layers="conv1")) == 520


def broken(change):
    model = LeNet5()
    h = ones(model)
    change(h)
    return model, h


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda h: h.pop("fc1.bias"), ValueError, r"8 selected tensors, but 1 are missing \('fc1\.bias'\) among the 7"),
        (lambda h: h.clear(), ValueError, r"but 8 are missing \('conv1\.weight', 'conv1\.bias', 'conv2\.weight', …\)"),
        (lambda h: h.update({"fc2.bias": torch.ones(11)}), ValueError, r"shape \(10,\), but has \(11,\)"),
        (
            lambda h: h.update({"fc2.weight": torch.ones(500, 10)}),
            ValueError,
            r"shape \(10, 500\), but has \(500, 10\)",
        ),
        (
            lambda h: h["fc1.weight"][0, :3].fill_(float("nan")),
            ValueError,
            r"3 of 400000 in 'fc1\.weight' .*3 NaN, 0 inf",
        ),
        (lambda h: h["fc1.bias"][:1].fill_(float("inf")), ValueError, r"sensitivities must be finite, but 1 of 500 in"),
        (lambda h: h["conv1.bias"][:2].fill_(-0.5), ValueError, r"2 of 20 entries of 'conv1\.bias' .*min -0\.5.*clamp"),
        (lambda h: [v.zero_() for v in h.values()], ValueError, "positive somewhere, but all 431080 entries are zero"),
        (lambda h: h.update({"fc2.bias": torch.ones(10, dtype=torch.int64)}), TypeError, "is a torch.int64 tensor"),
        (lambda h: h.update({"fc2.bias": [1.0] * 10}), TypeError, "is a list"),
    ],
)
def test_bad_sensitivity(change, error, message):
    model, h = broken(change)
    with pytest.raises(error, match=message):
        select(model, h)


def test_only_what_is_selected_must_be_right():
    model, h = broken(lambda h: (h.pop("fc1.bias"), h["conv2.bias"].fill_(float("nan")), h["conv1.bias"].zero_()))
    assert len(select(model, h, ["conv1", "fc2"])) == 520 + 5010


def test_other_types():
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, but a dict came"):
        select({})
    with pytest.raises(TypeError, match=r"must map parameter names to tensors, but a Tensor came"):
        select(LeNet5(), torch.ones(3))


def test_weights_without_values():
    with pytest.raises(ValueError, match=r"'weight' has none yet \(meta\)"):
        select(nn.Linear(2, 2, device="meta"))
    with pytest.raises(ValueError, match=r"'0\.weight' has none yet \(lazy\)"):
        select(nn.Sequential(nn.LazyLinear(3)))


def test_several_devices(monkeypatch):
    model = LeNet5()
    monkeypatch.setattr("nbquant.models.select._require_values", lambda model: None)  # lets the meta device stand in
    model.fc2.to("meta")
    with pytest.raises(ValueError, match="must be on one device, but are on cpu, meta: select them apart"):
        select(model)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_sensitivity_moves_to_the_weights():
    model = LeNet5()
    h = ones(model)
    assert select(model.cuda(), h).sensitivity.is_cuda
