"""Inspection of quantized files against counts and errors computed directly."""

import json
import math

import gguf
import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import nn

import nbquant as nq
from nbquant import cli
from nbquant.analysis.log_curve import LogCurve
from tests.formats.test_gguf import write


class Attention(nn.Module):
    """Two heads with the names of transformers, and a layer that GPT-2 stores transposed."""

    def __init__(self):
        super().__init__()
        self.model = nn.ModuleDict({"layers": nn.ModuleList([nn.ModuleDict({"self_attn": nn.Module()})])})
        attention = self.model["layers"][0]["self_attn"]
        attention.q_proj = nn.Linear(64, 16, bias=False)
        attention.v_proj = nn.Linear(64, 16, bias=False)
        self.model["embed_tokens"] = nn.Embedding(40, 64)
        self.c_fc = nn.Linear(32, 64, bias=False)


def regrouped(q, heads):
    """Rows of a query as the converter of llama.cpp orders them."""
    return q.reshape(heads, 2, q.shape[0] // heads // 2, *q.shape[1:]).swapaxes(1, 2).reshape(q.shape)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    net = Attention()
    with torch.no_grad():
        net.model["layers"][0]["self_attn"].v_proj.weight[:, ::3] = 0
    return net


@pytest.fixture(scope="module")
def path(network, tmp_path_factory):
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    layer = "model.layers.0.self_attn"
    return write(
        tmp_path_factory.mktemp("inspection") / "m.gguf",
        {
            "token_embd.weight": (state["model.embed_tokens.weight"], "Q8_0"),
            "blk.0.attn_q.weight": (regrouped(state[f"{layer}.q_proj.weight"], 2), "Q8_0"),
            "blk.0.attn_v.weight": (state[f"{layer}.v_proj.weight"], "Q8_0"),
            "c_fc.weight": (state["c_fc.weight"].T.copy(), "Q8_0"),
            "output_norm.weight": (np.ones(64, np.float32), "F32"),
            "extra.weight": (np.ones((2, 32), np.float32), "Q8_0"),
        },
        **{"attention.head_count": 2},
    )


def test_rows_are_matched_with_the_original(network, path):
    frame = nq.inspect(path, network, progress=False).set_index("name")
    assert frame.loc["blk.0.attn_q.weight", "original"] == "model.layers.0.self_attn.q_proj.weight"
    assert frame["order"].dropna().to_dict() == {
        "token_embd.weight": "same",
        "blk.0.attn_q.weight": "regrouped",
        "blk.0.attn_v.weight": "same",
        "c_fc.weight": "transposed",
    }
    known = frame[frame["original"].notna()]
    assert (known["relative_error"] < 1e-4).all()
    assert pd.isna(frame.loc["extra.weight", "original"])


def test_numbers_are_those_of_direct_counts(network, path):
    row = nq.inspect(path, network, progress=False).set_index("name").loc["blk.0.attn_v.weight"]
    w = network.model["layers"][0]["self_attn"].v_proj.weight.detach().numpy()
    kind = gguf.GGMLQuantizationType.Q8_0
    packed = gguf.quantize(w, kind)
    decoded = gguf.dequantize(packed, kind)
    codes = np.ascontiguousarray(packed.reshape(-1, 34)[:, 2:]).view(np.int8).reshape(-1)
    scales = np.ascontiguousarray(packed.reshape(-1, 34)[:, :2]).view(np.uint16).reshape(-1)

    def entropy(symbols):
        share = np.unique(symbols, return_counts=True)[1] / len(symbols)
        return -(share * np.log2(share)).sum()

    assert row["rate"] == 8.5
    assert row["code_bits"] == 8
    assert row["side_bits"] == 0.5
    assert row["code_entropy"] == pytest.approx(entropy(codes))
    assert row["side_entropy"] == pytest.approx(entropy(scales) / 32)
    assert row["entropy"] == pytest.approx(row["code_entropy"] + row["side_entropy"])
    assert row["levels"] == len(np.unique(codes))
    assert row["zeros"] == (decoded == 0).sum()
    assert row["original_zeros"] == (w == 0).sum()
    assert row["zeros_lost"] == 0
    assert row["relative_error"] == pytest.approx(((w - decoded) ** 2).sum() / (w**2).sum())
    assert row["distortion"] == pytest.approx(0.5 * ((w - decoded) ** 2).mean())
    assert row["loss"] == pytest.approx(row["distortion"] * w.size)


def test_sensitivities_follow_the_order_of_the_rows(network, path, tmp_path):
    name = "model.layers.0.self_attn.q_proj.weight"
    h = {name: torch.rand(16, 64), "c_fc.weight": torch.rand(64, 32)}
    frame = nq.inspect(path, network, h, progress=False).set_index("name")
    for row, weight, order in (
        ("blk.0.attn_q.weight", name, lambda t: regrouped(t, 2)),
        ("c_fc.weight", "c_fc.weight", lambda t: t.T.copy()),
    ):
        w = order(network.state_dict()[weight].numpy())
        kind = gguf.GGMLQuantizationType.Q8_0
        error = w - gguf.dequantize(gguf.quantize(w, kind), kind)
        assert frame.loc[row, "loss"] == pytest.approx(0.5 * (order(h[weight].numpy()) * error**2).sum(), rel=1e-5)
    nq.save_sensitivity(nq.load_sensitivity(_file(h, tmp_path)), tmp_path / "h.safetensors")
    from_file = nq.inspect(path, network, tmp_path / "h.safetensors", progress=False).set_index("name")
    pd.testing.assert_frame_equal(from_file, frame)


def _file(tensors, folder):
    save_file(tensors, folder / "plain.safetensors")
    return folder / "plain.safetensors"


def test_a_checkpoint_is_an_original_too(network, path, tmp_path):
    save_file(dict(network.state_dict()), tmp_path / "m.safetensors")
    of_file = nq.inspect(path, tmp_path / "m.safetensors", progress=False)
    pd.testing.assert_frame_equal(of_file, nq.inspect(path, network, progress=False))


def test_gaussian_weights_waste_what_theory_says(tmp_path):
    """At 8 bits the bound of Gaussian weights is ½ log2(σ²/D), and ECSQ is 0.25 bit above it, and its codebook."""
    torch.manual_seed(1)
    net = nn.ModuleDict({"a": nn.Linear(512, 256, bias=False)})
    with torch.no_grad():
        net["a"].weight.normal_()
    path = write(tmp_path / "g.gguf", {"a.weight": (net["a"].weight.detach().numpy(), "Q8_0")})
    row = nq.inspect(path, net, progress=False).iloc[0]
    theory = 0.5 * math.log2(1 / (2 * row["distortion"]))
    assert row["bound_rate"] == pytest.approx(theory, abs=0.1)
    assert row["ecsq_rate"] == pytest.approx(theory + 0.2546 + 0.12, abs=0.05)  # 500 values for 131,072 weights
    assert row["bits_wasted"] == pytest.approx(8.5 - row["bound_rate"])
    assert row["decibels_lost"] == pytest.approx(6.02 * row["bits_wasted"], rel=0.05)


def test_without_an_original_the_rest_is_missing(path):
    frame = nq.inspect(path, progress=False)
    assert frame["entropy"].notna().sum() == 5
    assert frame[["original", "relative_error", "bound_rate", "original_zeros"]].isna().all(axis=None)
    assert "ecsq_rate" not in frame


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"sensitivity": {}}, ValueError, "weigh the error against the original: pass original="),
        ({"original": 3}, TypeError, "original must be a torch.nn.Module or the path of a checkpoint, but a int came"),
        ({"methods": ("trellis",)}, ValueError, "a curve from histograms are required, but trellis came"),
        ({"methods": ("esq",)}, ValueError, "did you mean 'ecsq'"),
    ],
)
def test_errors_say_what_was_required(path, options, error, told):
    with pytest.raises(error, match=told):
        nq.inspect(path, progress=False, **options)


def test_an_original_or_sensitivities_of_other_names_are_refused(network, path):
    with pytest.raises(ValueError, match=r"none of its 2 tensors \('weight', 'bias'\) has the name of one in 'm.gguf'"):
        nq.inspect(path, nn.Linear(2, 2), progress=False)
    with pytest.raises(ValueError, match=r"sensitivities must have the original's names .*, but have 'x': estimate"):
        nq.inspect(path, network, {"x": torch.ones(2)}, progress=False)
    with pytest.raises(TypeError, match="sensitivity must map names to tensors, but a int came"):
        nq.inspect(path, network, 3, progress=False)
    with pytest.raises(TypeError, match="path must be the path of a file"):
        nq.inspect(3)


def test_sensitivities_of_another_shape_are_refused(network, path):
    with pytest.raises(ValueError, match=r"sensitivities of 'c_fc.weight' must have the shape of the original"):
        nq.inspect(path, network, {"c_fc.weight": torch.ones(3, 3)}, progress=False)


def test_limit_goes_through_its_points_and_on():
    limit = LogCurve.of(np.array([1.0, 2.0]), np.array([0.25, 0.0625]), 1.0)
    for rate, distortion in ((0.0, 1.0), (0.5, 0.5), (1.0, 0.25), (2.0, 0.0625), (4.0, 0.0625 / 16)):
        assert limit.distortion(rate) == pytest.approx(distortion)
        assert limit.rate(distortion) == pytest.approx(rate)


def test_shell_shows_the_table(network, path, tmp_path):
    save_file(dict(network.state_dict()), tmp_path / "m.safetensors")
    told = CliRunner().invoke(cli.commands, ["inspect", str(path), "--original", str(tmp_path / "m.safetensors")])
    assert told.exit_code == 0, told.output
    assert "in block formats 8.500 bit/weight are stored, of which" in told.output
    assert "blk.0.attn_q.weight" in told.output
    told = CliRunner().invoke(cli.commands, ["inspect", str(path), "--json"])
    assert len(json.loads(told.output)["tensors"]) == 6


def test_equal_weights_and_rates_beyond_any_distortion_have_no_bound_but_are_listed(tmp_path):
    norm = torch.nn.LayerNorm(64)
    nq.export(nq.fit(nq.select(norm, layers="*weight"), "q8_0", progress=False), tmp_path / "a.gguf", norm)
    row = nq.inspect(tmp_path / "a.gguf", original=norm, progress=False).set_index("name").loc["weight"]
    assert math.isnan(row["bound_rate"])
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 3))
    quantized = nq.fit(nq.select(model), "kmeans", levels=64, progress=False)
    nq.export(quantized, tmp_path / "a.onnx", model)
    rows = nq.inspect(tmp_path / "a.onnx", original=model, progress=False)
    assert np.isfinite(rows["decibels_lost"].dropna()).all()
    assert len(rows) == 4
