import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import nbquant as nq
from nbquant.formats.packed import FORMATS, MODULES
from nbquant.widgets.state import ExplorerState
from nbquant.widgets.view.readout import facts
from tests.widgets.samples import WAIT

U8, I16, I32, F8 = torch.uint8, torch.int16, torch.int32, torch.float8_e4m3fn
FORMS = {
    "HQQ": {"fc.W_q": U8, "fc.scale": None, "fc.zero": None, "fc.nbits": I32},
    "HQQ, viewed as floats": {"fc.W_q": torch.float16, "fc.scale": None, "fc.zero": None},
    "quanto": {"fc.weight._data": torch.int8, "fc.weight._scale": None, "fc.input_scale": None},
    "quanto int4": {"fc.weight._data._data": U8, "fc.weight._scale": None, "fc.weight._shift": None},
    "torchao": {"fc._weight_qdata": torch.int8, "fc._weight_scale": None, "fc._weight_zero_point": None},
    "torchao, other parameter": {"fc._in_proj_weight_qdata": F8, "fc._in_proj_weight_scale": None},
    "GPTQ": {"fc.qweight": I32, "fc.qzeros": I32, "fc.scales": None, "fc.g_idx": I32},
    "compressed-tensors": {"fc.weight_packed": I32, "fc.weight_scale": None, "fc.weight_zero_point": I32},
    "bitsandbytes": {"fc.weight": U8, "fc.weight.absmax": None, "fc.weight.quant_map": None},
    "bitsandbytes, stored as floats": {
        "fc.weight": torch.bfloat16,
        "fc.weight.absmax": None,
        "fc.weight.quant_state.bitsandbytes__nf4": U8,
    },
    "LLM.int8": {"fc.weight": torch.int8, "fc.SCB": None},
    "AQLM": {"fc.codes": I16, "fc.codebooks": None, "fc.scales": None},
    "VPTQ": {"fc.indices": I32, "fc.centroids.weight": None, "fc.weight_scale": None, "fc.weight_bias": None},
    "VPTQ, indices as floats": {"fc.indices": torch.float16, "fc.centroids.weight": None, "fc.weight_bias": None},
    "EXL2": {"fc.q_weight": I32, "fc.q_scale": I32, "fc.q_scale_max": None},
    "EXL3": {"fc.trellis": I16, "fc.suh": None, "fc.svh": None},
    "experts in MXFP4": {"experts.down_proj_blocks": U8, "experts.down_proj_scales": U8},
    "experts in FP8": {"experts.gate_up_proj": F8, "experts.gate_up_proj_scale_inv": None},
    "MLX": {"fc.weight": torch.uint32, "fc.scales": None, "fc.biases": None},
    "FP8": {"fc.weight": F8, "fc.weight_scale_inv": None, "fc.activation_scale": None, "attn.k_scale": None},
    "FP8 alone": {"weight": F8, "attn.v_scale": None},
}


def tensor(dtype, *shape):
    wide = torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 100
    return wide if dtype is None else wide.to(dtype)


def written(path, dtypes, **others):
    tensors = {name: tensor(dtype, *((2,) if dtype is None else (4, 8))) for name, dtype in dtypes.items()}
    save_file(tensors | others, path)
    return path


@pytest.mark.parametrize("form", FORMS)
def test_nothing_of_a_quantized_weight_is_taken_for_a_weight(tmp_path, form):
    path = written(tmp_path / "m.safetensors", FORMS[form], **{"norm.weight": torch.rand(5), "fc.bias": torch.rand(5)})
    with pytest.warns(UserWarning, match=r"will stay unchanged .* The ratio of the whole model counts them"):
        selection = nq.select(path)
    assert {t.name for t in selection} == {"norm.weight", "fc.bias"}
    assert selection.left_out.tensors == 1
    assert (selection.left_out.weights, selection.left_out.of) == (32, 42)
    stored = sum(t.numel() * t.element_size() for t in load_file(path).values())
    assert selection.unselected_bits == 8 * (stored - 40)


def test_scales_of_weights_that_are_not_quantized_yet_stay_behind(tmp_path):
    nan = torch.full((4, 1), float("nan"))
    tensors = {"fc.weight": torch.rand(4, 8), "fc.weight_scale": nan, "fc.weight_zero_point": nan.to(torch.int8)}
    save_file(tensors, tmp_path / "m.safetensors")
    selection = nq.select(tmp_path / "m.safetensors")
    assert [t.name for t in selection] == ["fc.weight"]
    assert selection.left_out is None
    assert nq.fit(selection, "kmeans", levels=4, progress=False).levels == 4


def test_weights_of_like_names_are_weights(tmp_path):
    own = {"logit_scale": (), "attn.k_scale": (8,), "a.scale": (3,), "b.codebooks": (3, 2), "c.q_scale_max": (2,)}
    tensors = {name: torch.rand(shape) for name, shape in own.items()}
    buffers = {
        "position_ids": torch.arange(9)[None],
        "attn.mask": torch.ones(4, 4, dtype=U8),
        "d.bias": torch.ones(2, 2),
    }
    save_file(tensors | buffers, tmp_path / "m.safetensors")
    selection = nq.select(tmp_path / "m.safetensors")
    assert {t.name for t in selection} == own.keys() | {"d.bias"}
    assert selection.left_out is None


def test_a_layer_is_refused_by_name_but_not_for_a_scale_of_its_cache(tmp_path):
    dtypes = {"attn.q.weight": torch.float32, "attn.k_scale": None, "fc.weight": F8, "fc.weight_scale": None}
    path = written(tmp_path / "m.safetensors", dtypes)
    assert [t.name for t in nq.select(path, layers="attn")] == ["attn.q.weight"]
    with pytest.raises(ValueError, match=r"'fc\.weight_scale' is part of 'fc\.weight', which is quantized already"):
        nq.select(path, layers="fc")
    with pytest.raises(ValueError, match=r"'fc\.weight' is F8_E4M3: leave it out"):
        nq.select(path, layers="fc.weight")


def test_a_checkpoint_of_codes_alone_says_so(tmp_path):
    path = written(tmp_path / "m.safetensors", {"fc.qweight": I32, "fc.scales": None})
    with pytest.raises(
        ValueError, match=r"the checkpoint has none, but 1 tensor in I32 with at least 32 of 32 weights"
    ):
        nq.select(path)


def test_ratios_and_readings_count_what_is_left_out(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"norm.weight": torch.rand(128), "fc.weight": torch.rand(256, 128).to(F8)}, path)
    with pytest.warns(UserWarning, match=r"1 tensor in F8_E4M3 with 32,768 of 32,896 weights \(99\.6 %\)"):
        state = ExplorerState(path, ratio=4.0)
    assert state.wait(WAIT)
    assert {"label": "not quantized", "value": "99.6 % of all weights", "note": "F8_E4M3, stay as they are"} in facts(
        state
    )
    quantized = state.exact
    assert quantized.compression_ratio > 4
    before, after = 128 * 4 + 32_768, 32_768 + quantized.ledger.total / 8
    assert quantized.model_compression_ratio == pytest.approx(before / after)
    assert "(1.012× of the whole model" in repr(quantized)


def held_by(library):
    """A class that seems to be of a library that need not be installed."""
    return type("QLinear", (nn.Linear,), {"__module__": f"{library}nn.modules"})


@pytest.mark.parametrize("row", MODULES, ids=lambda row: row.modules)
def test_modules_of_others_are_refused_with_what_to_do(row):
    model = nn.Sequential(nn.Linear(3, 3), held_by(row.modules)(3, 2))
    for verb in (nq.select, lambda m: nq.select(m, layers="1"), nq.explore):
        with pytest.raises(
            ValueError, match=r"of module '1' \(QLinear\) are quantized by .*leave it out of layers"
        ) as e:
            verb(model)
        assert row.dequantize in str(e.value)
    assert len(nq.select(model, layers="0")) == 12


def test_parameters_of_others_are_refused_in_plain_modules():
    kind = type("Int8Tensor", (nn.Parameter,), {"__module__": "torchao.quantization"})
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    model[1].weight = kind(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"of module '1' \(Linear\) are quantized by torchao"):
        nq.select(model)
    assert len(nq.select(model, layers="0")) == 12


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_quantized_modules_of_torch_are_refused():
    model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), {nn.Linear})
    with pytest.raises(ValueError, match="of module '0'"):
        nq.select(model)
    assert len(nq.select(model, layers="1")) == 6


def test_each_row_says_where_it_was_seen():
    assert all(row.library and row.codes and row.parts for row in FORMATS)
    assert all(row.library.split()[1][0].isdigit() for row in MODULES)


@pytest.mark.parametrize(
    ("came", "error", "message"),
    [
        ("", ValueError, r"an empty text came: pass a \.safetensors file"),
        ({"a": torch.ones(2)}, TypeError, r"a dict came: load a state dict .* load_state_dict"),
        ("m.onnx", ValueError, r"'m\.onnx' came: read graph\.initializer .*safetensors\.torch\.save_file"),
        ("m.gguf", ValueError, r"'m\.gguf' came: .*gguf_file="),
        ("m.h5", ValueError, r"'m\.h5' came: .*Keras.*safetensors\.torch\.save_file"),
        ("m.bin", ValueError, r"'m\.bin' is a pickle.*safetensors\.torch\.save_file"),
        ("m.pt", ValueError, r"'m\.pt' is a pickle"),
        ("m.nbq", ValueError, r"'m\.nbq' came: it is already quantized: nbquant\.load"),
        ("m.msgpack", ValueError, r"'m\.msgpack' came: load the weights with the program that wrote them"),
    ],
)
def test_other_sources_are_refused_with_how_to_convert_them(came, error, message):
    with pytest.raises(error, match=message):
        nq.select(came)
