import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nbquant.views.grid import grid_of
from nbquant.views.heatmap import heatmap_data
from nbquant.views.region import Region

SHAPES = [(7, 11), (4, 3, 2, 5), (20, 1, 5, 5), (500,), (101,), (6, 5, 3), ()]


def numbered(shape):
    return torch.arange(1, torch.Size(shape).numel() + 1, dtype=torch.float64).reshape(shape)


@pytest.mark.parametrize("shape", SHAPES)
@given(data=st.data())
def test_weights_are_those_that_the_map_shows_in_the_box(shape, data):
    drawn = heatmap_data(numbered(shape))
    image = 10.0**drawn.log_value
    rows, columns = grid_of(shape).rows, grid_of(shape).columns
    x = sorted(data.draw(st.tuples(*[st.floats(-0.4, columns - 0.6)] * 2)))
    y = sorted(data.draw(st.tuples(*[st.floats(-0.4, rows - 0.6)] * 2)))
    region = Region.of(shape, x, y)
    expected = set()
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            row = int((i + 0.5) * drawn.row_step)
            column = int((j + 0.5) * drawn.column_step)
            touched = row + 0.5 > y[0] and row - 0.5 < y[1] and column + 0.5 > x[0] and column - 0.5 < x[1]
            if touched:
                expected.add(round(float(image[i, j])))
    if expected:  # a box without width on a border touches nothing, and gets the next place
        assert set(region.weights(numbered(shape)).int().tolist()) == expected
    assert Region.parse(region.text, shape) == region
    assert Region.of(shape, x[::-1], y[::-1]) == region


@pytest.mark.parametrize(
    ("shape", "x", "y", "text", "label"),
    [
        ((50, 80), (5.2, 20.4), (-3, 9), "0:10, 5:21", "rows 0–9, columns 5–20"),
        ((50, 80), (3, 3), (4, 4), "4:5, 3:4", "row 4, column 3"),
        ((50, 80), (-1, 99), (-1, 99), "0:50, 0:80", "all of it"),
        ((50, 20, 5, 5), (2.6, 4), (0, 1), "0:2, 3:5", "output channels 0–1, input channels 3–4"),
        ((20, 1, 5, 5), (1, 2), (2, 2), "2:3, 1:3", "output channels 11–12"),
        ((500,), (0, 24), (1, 3), "1:4, 0:25", "indices 25–99"),
        ((500,), (3, 4), (1, 3), "1:4, 3:5", "rows 1–3, positions 3–4 of the map"),
        ((101,), (3, 4), (0, 0), "0:1, 3:5", "indices 3–4"),
        ((1, 9), (3, 4), (0, 0), "0:1, 3:5", "columns 3–4"),
    ],
)
def test_text_and_label(shape, x, y, text, label):
    region = Region.of(shape, x, y)
    assert (region.text, region.label) == (text, label)


@pytest.mark.parametrize(
    ("text", "rows", "columns"),
    [
        ("0:10, 5:20", (0, 10), (5, 20)),
        (" 3 ,:", (3, 4), (0, 80)),
        ("40:,:7", (40, 50), (0, 7)),
    ],
)
def test_slices_are_read_as_python_reads_them(text, rows, columns):
    assert Region.parse(text, (50, 80)) == Region((50, 80), rows, columns)


def test_columns_are_enough_where_there_is_one_row():
    assert Region.parse("3:5", (101,)).columns == (3, 5)


@pytest.mark.parametrize(
    "text", ["", "1", "1:2", "a, b", "-1:2, :", "5:5, :", "0:51, :", "50, 0", "1:2:3, :", ", :", ":, :, :"]
)
def test_other_text_is_refused(text):
    with pytest.raises(ValueError, match=r"rows must be a range in 0:50|such as 0:50, 0:80"):
        Region.parse(text, (50, 80))


@pytest.mark.parametrize("x", [(-5, -0.5), (79.5, 90), (float("nan"), 1), (0, float("inf"))])
def test_a_box_beside_the_map_is_refused(x):
    with pytest.raises(ValueError, match=r"80 columns from −0\.5 to 79\.5"):
        Region.of((50, 80), x, (0, 1))


def test_no_more_is_read_than_is_in_the_box():
    big = torch.empty(1).expand(1 << 20, 1 << 20)  # 4 TB if it were copied
    assert len(Region((1 << 20, 1 << 20), (5, 7), (1, 4)).weights(big)) == 6


def test_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"shape \(3, 4\) is required, but has \(4, 3\)"):
        Region((3, 4), (0, 1), (0, 1)).weights(torch.ones(4, 3))


def test_empty_tensors_have_no_map():
    with pytest.raises(ValueError, match=r"must not be empty, but its shape is \(0, 3\)"):
        grid_of((0, 3))
