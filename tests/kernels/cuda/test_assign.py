"""The assignment and its sums against ``reference`` and against all costs."""

import numpy as np
import pytest
import torch

from nbquant.kernels import reference
from nbquant.kernels.cuda import assign as module
from nbquant.kernels.cuda import choice
from nbquant.kernels.cuda.assign import assign, assign_grid
from tests.kernels.samples import draw


def check(weight, h, codebook, length, lmbda, device, constant=None, skip_zeros=False, dtype=torch.int16):
    n, k = len(weight), len(codebook)
    out = torch.full((n,), 99, dtype=dtype, device=device)
    there = weight.to(device), None if h is None else h.to(device)
    sums = assign(*there, codebook, length, lmbda, out, constant, skip_zeros)
    found = out.cpu().numpy().astype(int)
    kept = (weight != 0).numpy() if skip_zeros else np.ones(n, bool)
    assert ((found >= 0) == kept).all()
    w = weight.double().numpy()[:, None]
    mass = torch.ones(n).double() if h is None else h.double()
    cost = (w - codebook) ** 2
    if lmbda > 0:
        cost = 0.5 * (mass.numpy()[:, None] if constant is None else constant) * cost + lmbda * length
    best = cost.min(axis=1)
    assert (cost[np.arange(n), found] <= best * (1 + 1e-5) + 1e-9)[kept].all()
    expected = reference._cluster_sums(weight.double(), mass, torch.from_numpy(found), k).numpy()
    assert sums[:, 0].tolist() == expected[:, 0].tolist()
    scale = reference._cluster_sums(weight.double().abs(), mass, torch.from_numpy(found), k).numpy()
    assert (np.abs(sums - expected) <= 1e-6 * scale).all()
    return found


def problem(n, k, dtype):
    weight, h = draw(n, dtype)
    weight[3::7], h[2::5] = 0, 0
    return weight, h, np.linspace(-1.5, 2, k) + 0.01, np.random.default_rng(k).uniform(1, 8, k)


@pytest.mark.parametrize("k", [1, 2, 31, 200])
@pytest.mark.parametrize("lmbda", [0.0, 0.03])
@pytest.mark.parametrize("mass", ["h", "none", "constant", "zero"])
def test_assign_is_least_cost(k, lmbda, mass, device):
    if (k, mass, lmbda) == (200, "h", 0.03) and device.type == "cpu":
        pytest.skip("200 costs a weight take the interpreter too long")
    weight, h, codebook, length = problem(1301, k, torch.float32)
    constant = {"constant": 0.7, "zero": 0.0}.get(mass)
    check(weight, None if mass == "none" else h, codebook, length, lmbda, device, constant)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(("n", "out"), [(1, torch.int8), (515, torch.int32)])
@pytest.mark.parametrize("lmbda", [0.0, 0.03])
def test_dtypes_and_zeros(dtype, n, out, lmbda, device, monkeypatch):
    monkeypatch.setattr(module, "SLAB", 512)
    for skip in (False, True):
        check(*problem(n, 9, dtype), lmbda, device, skip_zeros=skip, dtype=out)


@pytest.mark.parametrize("room", [801, 4])
def test_the_table_of_candidates_decides_as_all_costs_do(room, device, monkeypatch):
    monkeypatch.setattr(module, "FEW_WEIGHTS", 0)
    monkeypatch.setattr(module, "LISTED_LEAST", room)  # of four, everything is done again without the table
    monkeypatch.setattr(module, "LISTED_PART", 1 << 20)
    monkeypatch.setattr(choice, "OCTAVES", 3)  # so few cells that the interpreter is quick
    monkeypatch.setattr(choice, "MANY_ROWS", 5)
    monkeypatch.setattr(choice, "COLUMNS", 1024)
    weight, h, codebook, length = problem(801, 31, torch.float32)
    found = check(weight, h, codebook, length, 0.03, device)
    assert len(np.unique(found)) > 5


def test_the_cheapest_is_among_a_cells_candidates(device, monkeypatch):
    monkeypatch.setattr(choice, "OCTAVES", 3)
    monkeypatch.setattr(choice, "MANY_ROWS", 5)
    monkeypatch.setattr(choice, "COLUMNS", 1024)
    _, h, codebook, length = problem(801, 31, torch.float32)
    values, prices = (torch.from_numpy(array).float().to(device) for array in (codebook, 0.3 * length))
    table = choice.table_of_candidates(h.to(device), values, prices)
    packed = table.packed.cpu().numpy().reshape(table.rows, 2 * table.bins + 1)
    assert 0.2 < (packed >= 0).mean() < 1
    random = np.random.default_rng(0)
    row, column = random.integers(table.rows, size=20000), random.integers(-table.bins, table.bins + 1, size=20000)
    inside_w, inside_h = random.uniform(size=(2, 20000))
    edge = [((table.first_bin + np.abs(column) - i) << 16).astype(np.int32).view(np.float32) for i in (1, 0)]
    edge[0] = np.where(column == 0, -edge[1], edge[0])
    w = np.where(column < 0, -1, 1) * (edge[0] + inside_w * (edge[1] - edge[0]))
    least, most = (((table.first_row + row - i) << 22).astype(np.int32).view(np.float32) for i in (1, 0))
    mass = np.where(row == 0, 0, least) + inside_h * (most - np.where(row == 0, 0, least))
    cost = 0.5 * mass[:, None] * (w[:, None] - codebook) ** 2 + 0.3 * length
    few = packed[row, column + table.bins]
    candidates = (few[:, None] >> np.arange(0, 64, 16)) & 0xFFFF
    known = few >= 0
    found = cost[np.flatnonzero(known)[:, None], candidates[known]].min(axis=1)
    np.testing.assert_allclose(found, cost[known].min(axis=1), rtol=1e-6)


def test_nearest_codewords_are_the_references(device):
    """Thresholds between float32 weights, ties included."""
    codebook = np.array([-1.0, 0.0, 1.0, 1.0 + 3 * 2**-24])
    weight = torch.tensor([-0.5, 0.5, 0.50000006, -0.49999997, 1.0 + 2**-23, 5, -5, 0])
    found = check(weight, None, codebook, np.zeros(4), 0.0, device)
    expected = reference.assign(weight, None, torch.from_numpy(codebook), torch.zeros(4), 0.0)[0]
    assert found.tolist() == expected.tolist()


def test_unused_codewords_have_infinite_length(device):
    weight, h, codebook, length = problem(515, 9, torch.float32)
    length[4] = np.inf
    for sensitivity in (h, None):
        assert 4 not in check(weight, sensitivity, codebook, length, 0.03, device)


@pytest.mark.parametrize("unit", [1e-15, 1e15])
def test_sums_hold_in_any_unit(unit, device):
    weight, h, codebook, length = problem(515, 9, torch.float32)
    check(weight * unit, h * unit, codebook * unit, length, 0.0, device)


@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")  # the interpreter's
def test_sums_that_float32_does_not_hold(device):
    weight, h, codebook, length = problem(515, 9, torch.float32)
    weight[5] = 1e30
    check(weight, h, codebook, length, 0.0, device)


@pytest.mark.parametrize("offset", [0.0, 0.5])
@pytest.mark.parametrize("step", [0.5, 0.01])
@pytest.mark.parametrize("skip", [False, True])
def test_grid_is_the_references(step, offset, skip, device):
    weight, h = draw(1301, torch.float32)
    weight[3::7], weight[::5] = 0, torch.round(weight[::5] * 4) / 4  # on the halves
    index = torch.round(weight.double() / step - offset)
    first, cells = int(index.min()), int(index.max() - index.min()) + 1
    out = torch.empty(1301, dtype=torch.int16, device=device)
    sums = assign_grid(weight.to(device), h.to(device), step, offset, first, cells, out, skip)
    expected, theirs = reference.assign_grid(weight, h, step, offset, first, cells, skip)
    assert out.cpu().tolist() == expected.tolist()
    assert (np.abs(sums - theirs.numpy()) <= 1e-6 * theirs.abs().max(dim=0).values.numpy()).all()
