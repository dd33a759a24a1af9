import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nbquant.quantization.codebook import QuantizedTensor
from nbquant.views import heatmap as module
from nbquant.views.grid import grid_of
from nbquant.views.heatmap import error_data, heatmap_data, heatmap_table
from nbquant.views.heatmap_drawing import draw_equal_sensitivities, draw_heatmap


def values(data):
    return np.nan_to_num(10.0 ** data.log_value.astype(np.float64), nan=0.0)


def rand(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.01


def test_matrix_stays_as_it_is():
    h = rand(7, 11)
    data = heatmap_data(h)
    np.testing.assert_allclose(values(data), h.numpy(), rtol=1e-5)
    assert (data.row_title, data.column_title, data.weights_per_cell) == ("output index", "input index", 1)


def test_filters_become_a_grid_of_kernels():
    h = rand(4, 3, 2, 5)
    data = heatmap_data(h)
    image = values(data)
    assert image.shape == (8, 15)
    for o in range(4):
        for i in range(3):
            np.testing.assert_allclose(image[2 * o : 2 * o + 2, 5 * i : 5 * i + 5], h[o, i].numpy(), rtol=1e-5)
    assert (data.row_step, data.column_step) == (0.5, 0.2)


def test_filters_of_one_input_channel_run_on_in_rows():
    h = rand(20, 1, 5, 5)
    data = heatmap_data(h)
    assert data.wrapped == 5
    np.testing.assert_allclose(values(data)[10:15, 15:20], h[2 * 5 + 3, 0].numpy(), rtol=1e-5)


def test_vector_runs_on_in_rows_and_a_prime_one_in_a_single_row():
    h = rand(500)
    data = heatmap_data(h)
    np.testing.assert_allclose(values(data).reshape(-1), h.numpy(), rtol=1e-5)
    assert data.log_value.shape == (20, 25)
    assert heatmap_data(rand(101)).log_value.shape == (1, 101)
    assert heatmap_data(torch.tensor(2.0)).log_value.shape == (1, 1)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12), st.integers(1, 12), st.sampled_from(["max", "mean"]))
def test_pooling_matches_a_plain_loop(rows, columns, max_rows, max_columns, pooling):
    h = rand(rows, columns)
    data = heatmap_data(h, pooling=pooling, max_rows=max_rows, max_columns=max_columns)
    r, c = -(-rows // max_rows), -(-columns // max_columns)
    reduce = np.max if pooling == "max" else np.mean
    expected = [[reduce(h.numpy()[i : i + r, j : j + c]) for j in range(0, columns, c)] for i in range(0, rows, r)]
    np.testing.assert_allclose(values(data), expected, rtol=1e-5)
    assert data.log_value.shape[0] <= max_rows
    assert data.log_value.shape[1] <= max_columns
    assert (data.row_step, data.column_step) == (r, c)


def test_kernels_shrink_to_a_cell_before_channels_are_pooled():
    h = rand(60, 40, 3, 3)
    data = heatmap_data(h, max_rows=60, max_columns=40)
    np.testing.assert_allclose(values(data), h.amax((2, 3)).numpy(), rtol=1e-5)
    assert (data.row_step, data.column_step, data.weights_per_cell) == (1, 1, 9)


def test_never_sends_large_arrays():
    for shape in [(3000, 5000), (300, 200, 3, 3), (1_000_000,), (999_983,)]:
        rows, columns = heatmap_data(torch.ones(shape)).log_value.shape
        assert rows <= 250
        assert columns <= 400


def test_zeros_are_told_apart_and_their_share_is_that_of_the_weights():
    h = torch.tensor([[0.0, 1e-3], [0.0, 0.0], [1e-2, 1.0], [0.5, 0.5]])
    data = heatmap_data(h, max_rows=2)
    assert data.zero_share == 0.375
    assert np.isnan(data.log_value).tolist() == [[True, False], [False, False]]
    zero, positive = go.Figure(draw_heatmap(data)).data
    assert np.isnan(zero.z).tolist() == [[False, True], [True, True]]
    assert zero.hovertemplate.split("<br>")[1].startswith("h = 0")
    assert positive.zmax == 0


def test_all_zeros_are_drawn_as_zeros():
    figure = go.Figure(draw_heatmap(heatmap_data(torch.zeros(3, 4))))
    assert "100.0% of h is zero" in figure.layout.title.text
    assert not np.isnan(figure.data[0].z).any()


def test_one_stray_value_does_not_stretch_the_colours():
    h = rand(100, 100)
    h[0, 0] = 1e-30
    data = heatmap_data(h)
    assert data.low > -3
    assert data.log_value.min() == pytest.approx(-30)


def test_values_below_float32_are_not_zero():
    assert heatmap_data(torch.full((2, 2), 1e-60, dtype=torch.float64)).zero_share == 0
    assert heatmap_data(torch.full((2, 2), 1e-60, dtype=torch.float64)).high == pytest.approx(-60)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(dtype):
    data = heatmap_data(torch.full((30, 20), 0.25, dtype=dtype), max_rows=10, pooling="mean")
    np.testing.assert_allclose(values(data), 0.25, rtol=1e-3)


@pytest.mark.parametrize(
    ("h", "message"),
    [
        (torch.ones(0, 3), r"empty, but its shape is \(0, 3\)"),
        (torch.tensor([1.0, -2.0, 3.0]), "1 of 3 entries are not .min -2"),
        (torch.tensor([1.0, torch.nan]), "1 of 2"),
        (torch.tensor([1.0, torch.inf]), "1 of 2"),
    ],
)
def test_bad_sensitivities_are_refused(h, message):
    with pytest.raises(ValueError, match=message):
        heatmap_data(h)


def test_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match='"max" or "mean", but got \'median\''):
        heatmap_data(torch.ones(2, 2), pooling="median")


def test_axes_count_true_indices():
    figure = go.Figure(draw_heatmap(heatmap_data(rand(500, 800), name="fc1.weight")))
    trace = figure.data[-1]
    assert (trace.y0, trace.dy) == (0.5, 2)
    assert figure.layout.xaxis.range == (-0.5, 799.5)
    assert figure.layout.yaxis.range == (499.5, -0.5)
    assert "fc1.weight 500×800" in figure.layout.title.text


def test_wrapped_rows_are_labelled_by_their_first_index():
    figure = go.Figure(draw_heatmap(heatmap_data(rand(500))))
    assert list(figure.layout.yaxis.tickvals) == [0, 3, 6, 9, 12, 15, 18]
    assert list(figure.layout.yaxis.ticktext)[:3] == [0, 75, 150]


def test_colour_bar_has_decades_and_units():
    h = 10.0 ** torch.linspace(-6.5, -1.5, 1000).reshape(25, 40)
    bar = go.Figure(draw_heatmap(heatmap_data(h))).data[-1].colorbar
    assert list(bar.ticktext) == ["1e-6", "1e-5", "1e-4", "1e-3", "1e-2"]
    assert bar.title.text == "h [loss/weight²]"


@pytest.mark.parametrize("shape", [(37, 90), (5, 2000), (700, 3), (16, 12, 3, 3), (9, 8, 40), (3000,), (40, 1, 5, 5)])
@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_of_a_large_tensor_only_what_is_drawn_is_read(monkeypatch, shape, pooling):
    monkeypatch.setattr(module, "_MOST_READ", 240)
    h, rows, columns = rand(*shape), 8, 10
    unread = torch.full(shape, float("nan"), dtype=torch.float64)
    for seen in (h, unread):  # a view of what is read, into both
        grid = grid_of(shape)
        step = module._steps((grid.rows, grid.columns), (rows, columns))
        sample = module._sample(seen, grid, step, 240 // (rows * columns))
        if seen is h:
            kept = sample.clone()
        else:
            sample.copy_(kept)
    data = heatmap_data(unread, pooling=pooling, max_rows=rows, max_columns=columns)
    image = kept.amax(2) if pooling == "max" else kept.mean(2)
    np.testing.assert_allclose(values(data), image.numpy(), rtol=1e-5)
    assert image.shape[0] <= rows
    assert image.shape[1] <= columns
    assert kept.numel() <= max(240, image.numel())
    assert (data.row_step, data.column_step) == step
    assert data.weights_read == kept.shape[2] < data.weights_per_cell
    text = go.Figure(draw_heatmap(data)).layout.title.text
    assert f"{pooling} of {data.weights_read:,} of the {data.weights_per_cell:,} weights per cell" in text


def test_sampled_cells_are_where_their_weights_are(monkeypatch):
    h = torch.zeros(100, 200)
    h[40:50, 120:140] = 1.0
    monkeypatch.setattr(module, "_MOST_READ", 100)
    data = heatmap_data(h, max_rows=10, max_columns=10)
    shown = np.argwhere(values(data) > 0)
    rows = shown[:, 0] * data.row_step + data.row_start + 0.5
    columns = shown[:, 1] * data.column_step + data.column_start + 0.5
    assert set(rows) == {40}
    assert set(columns) == {120}


def quantized(shape, dtype=torch.float32, seed=0):
    """A weight, what it became, h, and the error by definition; a fifth of the weights is pruned."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator).to(dtype)
    book = torch.tensor([-1.5, -0.4, 0.3, 1.2], dtype=dtype)
    assignment = torch.randint(-1, 4, (weight.numel(),), generator=generator, dtype=torch.int16)
    weight.view(-1)[assignment < 0] = 0
    restored = [0.0 if a < 0 else book[a].item() for a in assignment]
    error = np.abs(weight.double().numpy().reshape(-1) - restored)
    return weight, QuantizedTensor(book, assignment, weight.shape), rand(*shape).float(), error.reshape(shape)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(7, 11), (4, 3, 2, 5), (20, 1, 5, 5), (60,), (6, 5, 3)])
def test_errors_lie_where_their_sensitivities_do(shape, dtype):
    weight, tensor, h, error = quantized(shape, dtype)
    lain = heatmap_data(h)
    for weighted, expected in [(False, error), (True, 0.5 * h.double().numpy() * error**2)]:
        data = error_data(weight, tensor, h, name="a", weighted=weighted)
        same = heatmap_data(torch.from_numpy(expected), quantity=data.quantity)
        np.testing.assert_allclose(values(data), values(same), rtol=1e-5)
        for field in ("row_start", "row_step", "column_start", "column_step", "row_title", "column_title", "wrapped"):
            assert getattr(data, field) == getattr(lain, field)
        assert data.zero_share == pytest.approx(float((tensor.assignment < 0).double().mean()))


def test_errors_are_pooled_over_the_same_weights_as_their_sensitivities(monkeypatch):
    weight, tensor, h, error = quantized((90, 160))
    settings = {"max_rows": 9, "max_columns": 8, "pooling": "mean"}
    expected = 0.5 * h.double().numpy() * error**2
    pooled = expected.reshape(9, 10, 8, 20).mean((1, 3))
    np.testing.assert_allclose(values(error_data(weight, tensor, h, weighted=True, **settings)), pooled, rtol=1e-5)
    monkeypatch.setattr(module, "_MOST_READ", 500)
    sampled = error_data(weight, tensor, h, weighted=True, **settings)
    read = expected[::10].reshape(9, 8, 20)[:, :, : 500 // 72].mean(2)
    np.testing.assert_allclose(values(sampled), read, rtol=1e-5)
    assert sampled.weights_read == 500 // 72


def test_titles_and_units_follow_the_quantity():
    weight, tensor, h, error = quantized((5, 6))
    bars = [
        draw_heatmap(error_data(weight, tensor, given, weighted=weighted, name="fc"))
        for given, weighted in [(h, False), (h, True), (None, True)]
    ]
    assert [b["data"][-1]["colorbar"]["title"]["text"] for b in bars] == [
        "|w − c| [weight]",
        "½h(w − c)² [loss]",
        "½(w − c)² [weight²]",
    ]
    assert [b["layout"]["title"]["text"].split(" – ")[0] for b in bars] == [
        "<b>Error",
        "<b>Predicted loss",
        "<b>Squared error",
    ]
    np.testing.assert_allclose(values(error_data(weight, tensor, None, weighted=True)), 0.5 * error**2, rtol=1e-5)


def test_other_shapes_and_quantities_are_refused():
    weight, tensor, h, _ = quantized((5, 6))
    with pytest.raises(ValueError, match=r"one shape, but came with \[\(5, 6\), \(6, 5\)\]"):
        error_data(weight, tensor, h.T)
    with pytest.raises(ValueError, match="but got 'loss'"):
        heatmap_data(h, quantity="loss")


def test_without_sensitivities_that_is_said():
    figure = go.Figure(draw_equal_sensitivities("fc.weight"))
    assert "fc.weight" in figure.layout.title.text
    assert "count equally" in figure.layout.annotations[0].text


@pytest.mark.parametrize("shape", [(7, 11), (4, 3, 2, 5), (20, 1, 5, 5), (60,), (101,)])
def test_table_has_each_weight_at_its_index(shape):
    h = rand(*shape)
    table = heatmap_table(heatmap_data(h))
    assert table.columns[-1] == "h [loss/weight²]"
    index = [table[c].to_numpy() for c in table.columns[:-1]]
    if len(shape) == 4:
        places = (*index[:-2], *([np.zeros(len(table), int)] if shape[1] == 1 else []), *index[-2:])
    else:
        places = tuple(index)
    np.testing.assert_allclose(table.iloc[:, -1], h.numpy()[places], rtol=1e-5)
    assert len(table) == h.numel()


def test_table_of_pooled_cells_has_their_first_index_and_zeros():
    h = torch.zeros(20, 30)
    h[5, 7] = 2.0
    table = heatmap_table(heatmap_data(h, max_rows=10, max_columns=10))
    assert len(table) == 100
    hit = table[table["greatest h [loss/weight²]"] > 0]
    np.testing.assert_allclose(hit.to_numpy(), [[4, 6, 2.0]], rtol=1e-6)
    kernels = heatmap_table(heatmap_data(rand(60, 40, 3, 3), max_rows=30, max_columns=40))
    assert kernels["output channel"].tolist()[::40] == list(range(0, 60, 2))
    assert "kernel row" not in kernels
