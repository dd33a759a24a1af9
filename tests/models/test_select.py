import json
import os
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import nbquant as nq
from nbquant.models.lenet import LeNet5
from nbquant.models.resnet import ResNet8
from nbquant.models.select import select
from nbquant.quantization.selection import LeftOut, SensitivityRecord
from nbquant.sensitivity.result import Sensitivity


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
    with pytest.warns(UserWarning, match=r"1 tensor in int8 with 6 of 50 weights \(12\.0 %\) .*'packed\.weight'"):
        selection = select(model)
    assert "packed.weight" not in names(selection)
    assert selection.left_out == LeftOut(1, 6, 50, ("int8",))
    assert selection.unselected_bits == 48 + BUFFER_BITS
    with pytest.warns(UserWarning, match="1 tensor in int8"):
        assert names(select(model, layers="packed*")) == ["packed.bias"]
    assert select(model, layers="half").left_out is None
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
        (
            lambda h: h.clear(),
            ValueError,
            r"but 8 are missing \('conv1\.weight', 'conv1\.bias', 'conv2\.weight' and 5 more\)",
        ),
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
    with pytest.raises(TypeError, match=r"source must be a torch.nn.Module or the path of .*, but a dict came"):
        select({})
    with pytest.raises(TypeError, match=r"must map parameter names to tensors or be .*, but a Tensor came"):
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
    with pytest.raises(ValueError, match="must be on one device, but are on cpu, meta: select them separately"):
        select(model)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_sensitivity_moves_to_the_weights():
    model = LeNet5()
    h = ones(model)
    assert select(model.cuda(), h).sensitivity.is_cuda


def saved(model, path):
    save_file(model.state_dict(), path)
    return path


def test_checkpoint_is_selected_as_its_model_is(tmp_path):
    model = ResNet8()
    path = saved(model, tmp_path / "m.safetensors")
    for layers in (None, "layers.0", ["bn1", "fc.weight", "layers.?.conv2"], "*.bias"):
        ours, theirs = select(path, layers=layers), select(model, layers=layers)
        assert {t.name: t.layer for t in ours} == {t.name: t.layer for t in theirs}
        for tensor in ours:
            assert torch.equal(tensor.weight, model.get_parameter(tensor.name))
            assert tensor.weight_source.path == path.resolve()
        assert ours.source_bits == theirs.source_bits
        assert (ours.unselected_bits, ours.unselected_count) == (theirs.unselected_bits, theirs.unselected_count)


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ("fc9", ValueError, r"must be in the checkpoint, .* the name 'fc9': did you mean 'fc'"),
        ("bn1.running_mean", ValueError, "must be in the checkpoint"),
        ([], ValueError, r"at least one layer is required, but got layers=\(\)"),
        (
            nn.Linear(1, 1),
            TypeError,
            r"of a checkpoint must be names or globs, but got a Linear: pass its name",
        ),
        (["fc", nn.ReLU()], TypeError, "but got a ReLU"),
        (3, TypeError, "layers must be names"),
    ],
)
def test_layers_of_a_checkpoint(tmp_path, layers, error, message):
    path = saved(ResNet8(), tmp_path / "m.safetensors")
    with pytest.raises(error, match=message):
        select(path, layers=layers)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool, torch.float8_e5m2, torch.complex64])
def test_other_tensors_of_a_checkpoint_stay_behind_unless_named(tmp_path, dtype):
    other = torch.zeros(6).to(dtype)
    save_file({"a.weight": torch.ones(4), "q.weight": other, "q.scale": torch.ones(3)}, tmp_path / "m.safetensors")
    with pytest.warns(UserWarning, match=r"1 tensor in .* with (at least )?6 of 10 weights \(60\.0 %\)"):
        selection = select(tmp_path)
    assert names(selection) == ["a.weight"]
    assert selection.left_out.share == 0.6
    assert selection.unselected_count == 9
    assert selection.unselected_bits == 8 * (6 * other.element_size() + 12)
    for layers, culprit in (("q", "(weight|scale)"), ("q.weight", "weight"), ("q.scale", "scale")):
        with pytest.raises(ValueError, match=rf"must be float32, .*, but 'q\.{culprit}' is .*: leave it out"):
            select(tmp_path, layers=layers)
    with pytest.raises(ValueError, match=r"is required, but layers='q\*' has none, but 1 tensor in"):
        select(tmp_path, layers="q*")


def test_values_of_a_checkpoint_are_not_looked_at(tmp_path):
    model = LeNet5()
    with torch.no_grad():
        model.fc2.weight.fill_(float("nan"))
    path = saved(model, tmp_path / "m.safetensors")
    assert len(select(path)) == 431_080
    with pytest.raises(ValueError, match="weights must be finite"):
        select(model)


def sparse_file(path, names, entries):
    size = 4 * entries
    header = json.dumps(
        {
            name: {"dtype": "F32", "shape": [entries], "data_offsets": [i * size, (i + 1) * size]}
            for i, name in enumerate(names)
        }
    ).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(path, 8 + len(header) + len(names) * size)
    return path


def anonymous_bytes():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="the system does not tell its memory so")
def test_checkpoint_takes_no_memory(tmp_path):
    path = sparse_file(tmp_path / "m.safetensors", [f"l{i}.weight" for i in range(20)], 2_500_000)
    h = sparse_file(tmp_path / "h.safetensors", [f"l{i}.weight" for i in range(20)], 2_500_000)
    before = anonymous_bytes()
    selection = select(path, h)
    assert len(selection) == 50_000_000
    assert anonymous_bytes() - before < 4 << 20
    for tensor in selection:  # nor when it is read
        assert sum(int(part.count_nonzero()) for part in tensor.weight.split(1 << 16)) == 0
    assert anonymous_bytes() - before < 8 << 20


def test_stored_sensitivity(tmp_path):
    model = LeNet5()
    h = {name: torch.rand_like(p) for name, p in model.named_parameters()}
    path = saved(model, tmp_path / "m.safetensors")
    save_file(h | {"extra": torch.arange(3)}, tmp_path / "h.safetensors")
    for source in (path, model):
        for tensor in select(source, tmp_path / "h.safetensors", ["fc1", "fc2.bias"]):
            assert torch.equal(tensor.sensitivity, h[tensor.name])
            assert tensor.sensitivity_source.path == (tmp_path / "h.safetensors").resolve()
    assert all(t.sensitivity_source is None for t in select(path, h))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h.pop("fc1.bias"), r"8 selected tensors, but 1 are missing \('fc1\.bias'\) among the 7"),
        (lambda h: h.update({"fc2.bias": torch.ones(11)}), r"shape \(10,\), but has \(11,\)"),
        (lambda h: h.update({"fc2.bias": torch.ones(10).long()}), r"'fc2\.bias' must be floating-point, but is I64"),
    ],
)
def test_bad_stored_sensitivity(tmp_path, change, message):
    model, h = broken(change)
    path = saved(model, tmp_path / "m.safetensors")
    save_file(h, tmp_path / "h.safetensors")
    for source in (path, model):
        with pytest.raises(ValueError, match=message):
            select(source, tmp_path / "h.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h["fc1.bias"][:1].fill_(float("inf")), "sensitivities must be finite, but 1 of 500"),
        (lambda h: h["conv1.bias"][:2].fill_(-0.5), r"non-negative, but 2 of 20 entries"),
        (lambda h: [v.zero_() for v in h.values()], "positive somewhere"),
    ],
)
def test_values_of_sensitivities_are_checked_unless_all_is_on_disk(tmp_path, change, message):
    model, h = broken(change)
    path = saved(model, tmp_path / "m.safetensors")
    save_file(h, tmp_path / "h.safetensors")
    for source, given_ in ((path, h), (model, tmp_path / "h.safetensors")):
        with pytest.raises(ValueError, match=message):
            select(source, given_)
    assert len(select(path, tmp_path / "h.safetensors")) == 431_080


def test_a_selection_knows_how_its_sensitivities_came_about(tmp_path):
    model = nn.Linear(3, 2)
    tensors = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    known = Sensitivity(tensors, "gauss_newton", samples=7, damping=0.5)
    nq.save_sensitivity(known, tmp_path / "h.safetensors")
    nq.save_sensitivity(tensors, tmp_path / "bare.safetensors")
    save_file({name: p.detach() for name, p in model.named_parameters()}, tmp_path / "w.safetensors")
    record = SensitivityRecord("gauss_newton", 7, 0.5)
    assert nq.select(model).record is None
    assert nq.select(model, known).record == record
    assert nq.select(model, tensors).record == SensitivityRecord("given")
    from_file = nq.select(tmp_path / "w.safetensors", tmp_path / "h.safetensors")
    assert from_file.record == record
    assert nq.select(tmp_path / "w.safetensors", tmp_path / "bare.safetensors").record == SensitivityRecord("file")
    assert from_file.part([""]).damped(2.0).record == SensitivityRecord("gauss_newton", 7, 0.5, offset=2.0)
    assert nq.KMeans(2).fit(from_file).record == record


def with_empty_parameters():
    model = nn.Sequential(nn.Linear(20, 30, bias=False), nn.Linear(30, 4))
    model.register_parameter("none", nn.Parameter(torch.zeros(0, 5)))
    model[1].register_parameter("nothing", nn.Parameter(torch.zeros(3, 0)))
    return model


@pytest.mark.parametrize(
    ("method", "target"),
    [
        *(
            (method, {"ratio": 5, "per_layer": p})
            for method in ("kmeans", "uniform", "ecsq", "trellis")
            for p in (False, True)
        ),
        *(("feedback", {"ratio": 5}), ("nf4", {})),
    ],
)
def test_parameters_without_entries_are_kept_as_they_are(tmp_path, method, target):
    torch.manual_seed(0)
    model = with_empty_parameters()
    selection = select(model)
    assert names(selection) == ["0.weight", "1.weight", "1.bias"]
    with pytest.raises(ValueError, match=r"at least one weight .* layers=\['none'\] has none"):
        select(model, layers=["none"])
    quantized = nq.fit(selection, method, **target, progress=False)
    nq.save(quantized, tmp_path / "a.nbq", model, progress=False)
    restored = nq.load(tmp_path / "a.nbq").state_dict(progress=False)
    assert restored["none"].shape == (0, 5)
    assert restored["1.nothing"].shape == (3, 0)
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    assert set(names(select(tmp_path / "a.safetensors"))) == set(names(selection))
