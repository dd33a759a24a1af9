"""Stacks of matrices, as of experts: moments of each, whichever way the network multiplies by them."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import nbquant as nq

EXPERTS, WIDTH, OUT = 3, 4, 2

ONE_BY_ONE = {  # how an expert is used, and whether inputs are along the first axis of its matrix
    "x @ w": (lambda x, w: x @ w, True),
    "x @ w.T": (lambda x, w: x @ w.T, False),
    "linear": (functional.linear, False),
    "linear of w.T": (lambda x, w: functional.linear(x, w.T), True),
}
TOGETHER = {
    "bmm": (torch.bmm, True),
    "bmm, transposed": (lambda x, w: torch.bmm(x, w.mT), False),
    "matmul": (torch.matmul, True),
    "@, transposed": (lambda x, w: x @ w.transpose(1, 2), False),
    "einsum": (lambda x, w: torch.einsum("ecd,edh->ech", x, w), True),
    "einsum, outputs first": (lambda x, w: torch.einsum("ecd, ehd -> ech", x, w), False),
}


class OneByOne(nn.Module):
    """Each sample goes to the expert that its first input names; scaled, so that outputs differ in sensitivity."""

    def __init__(self, kind, width=WIDTH, out=OUT, experts=EXPERTS):
        super().__init__()
        self.multiply, in_first = ONE_BY_ONE[kind]
        self.experts = nn.Parameter(torch.randn(experts, *((width, out) if in_first else (out, width))))
        self.scale = nn.Parameter(1.0 + torch.arange(out))

    def forward(self, x):
        found = x.new_zeros(len(x), self.scale.numel())
        for e in range(len(self.experts)):
            mine = (x[:, 0] == e).nonzero()[:, 0]
            if len(mine):
                found = found.index_add(0, mine, self.multiply(x[mine], self.experts[e]))
        return found * self.scale


class Together(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.multiply, in_first = TOGETHER[kind]
        self.experts = nn.Parameter(torch.randn(EXPERTS, *((WIDTH, OUT) if in_first else (OUT, WIDTH))))

    def forward(self, x):
        return self.multiply(x.transpose(0, 1), self.experts).transpose(0, 1)


def routed(counts, width=WIDTH, out=OUT):
    x = torch.randn(sum(counts), width)
    x[:, 0] = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return x, torch.randn(len(x), out)


@pytest.mark.parametrize("kind", ONE_BY_ONE)
def test_moments_of_each_expert(kind):
    torch.manual_seed(0)
    model, (x, target) = OneByOne(kind), routed([40, 30, 50])
    calibration = nq.calibrate(model, [(x, target)], loss=functional.mse_loss, draws=200, progress=False)
    part, found = calibration.parts["experts"], calibration.moments("experts", {})
    assert (part.stacked, part.groups, part.along) == (True, EXPERTS, ONE_BY_ONE[kind][1])
    assert not calibration.left_out
    assert found.places.tolist() == [40, 30, 50]
    for e in range(EXPERTS):
        seen = x[x[:, 0] == e].double()
        assert torch.allclose(found.inputs[e], seen.T @ seen / len(seen), rtol=1e-4, atol=1e-6)
        # Each output has the curvature 2 scale² / OUT, at the share of the samples that the expert sees.
        expected = model.scale.detach().double().square() * (2 / OUT) * len(seen) / len(x)
        assert torch.allclose(found.outputs[e * OUT : e * OUT + OUT], expected, rtol=0.1)


@pytest.mark.parametrize("kind", TOGETHER)
def test_moments_of_experts_that_are_used_together(kind):
    torch.manual_seed(0)
    model, x = Together(kind), torch.randn(30, EXPERTS, WIDTH)
    calibration = nq.calibrate(
        model, [(x, torch.randn(30, EXPERTS, OUT))], loss=functional.mse_loss, draws=200, progress=False
    )
    part, found = calibration.parts["experts"], calibration.moments("experts", {})
    assert (part.stacked, part.groups, part.along) == (True, EXPERTS, TOGETHER[kind][1])
    for e in range(EXPERTS):
        seen = x[:, e].double()
        assert torch.allclose(found.inputs[e], seen.T @ seen / len(seen), rtol=1e-4, atol=1e-6)
    assert torch.allclose(found.outputs, torch.full((EXPERTS * OUT,), 2 / (EXPERTS * OUT)).double(), rtol=0.1)


@pytest.mark.parametrize("equation", ["nd,edh->nh", "ned,edh->nh"])
def test_a_product_that_adds_experts_up_is_left_out(equation):
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts, self.out = nn.Parameter(torch.randn(EXPERTS, WIDTH, OUT)), nn.Linear(OUT, 2)

        def forward(self, x):
            return self.out(torch.einsum(equation, x, self.experts))

    x = torch.randn(8, *((EXPERTS,) if equation.startswith("ned") else ()), WIDTH)
    with pytest.warns(UserWarning, match="experts"):
        calibration = nq.calibrate(Sum(), [(x, torch.zeros(8).long())], progress=False)
    assert list(calibration.left_out) == ["experts"]


@pytest.mark.filterwarnings("ignore:.*have fewer places")
def test_an_expert_that_no_sample_reached_has_white_inputs():
    torch.manual_seed(0)
    model, (x, target) = OneByOne("x @ w"), routed([40, 0, 50])
    found = nq.calibrate(model, [(x, target)], loss=functional.mse_loss, progress=False).moments("experts", {})
    energy = torch.stack([x[x[:, 0] == e].square().mean() for e in (0, 2)]).mean()
    assert torch.allclose(found.inputs[1], energy.double() * torch.eye(WIDTH).double(), rtol=1e-5)
    assert not found.outputs[OUT : 2 * OUT].any()


@pytest.mark.parametrize("kind", ["x @ w", "linear"])
def test_the_predicted_loss_is_that_of_each_expert_by_itself(kind):
    torch.manual_seed(0)
    model = OneByOne(kind, 6, 5)
    calibration = nq.calibrate(model, [routed([400, 300, 500], 6, 5)], loss=functional.mse_loss, progress=False)
    found = nq.Feedback(1e-4, damping=1e-9, output_damping=0).paths(
        nq.select(model, layers=["experts"], calibration=calibration)
    )
    moments, expected = calibration.moments("experts", {}), 0.0
    (matrix,) = [m for m in found.matrices if m.target.numel() == 90]
    off = model.experts.detach().double() - (matrix.integers * matrix.step).double().reshape(model.experts.shape)
    for e, s in enumerate(moments.outputs.reshape(3, 5)):
        delta = off[e].T if ONE_BY_ONE[kind][1] else off[e]
        noise = 0.1 * 6 / moments.places[e] * moments.energy[e].mean()  # as where samples are few
        g = moments.blocks[0][e].double() + noise * torch.eye(6)
        expected += 0.5 * float(((delta @ g * delta).sum(1) * s).sum())
    assert found.loss == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("kind", ["x @ w", "linear"])
@pytest.mark.filterwarnings("ignore:.*have fewer places")
def test_feedback_loses_less_than_the_trellis_on_experts(kind):
    torch.manual_seed(0)
    model, mix = OneByOne(kind, 24, 20, 4), torch.randn(4, 24)

    def data():
        x = torch.randn(800, 4) @ mix + 0.1 * torch.randn(800, 24)
        x[:, 0] = torch.arange(800) % 3  # the last expert sees nothing
        return x, torch.randn(800, 20)

    calibration = nq.calibrate(model, [data()], loss=functional.mse_loss, progress=False)
    x, error = data()[0], {}
    for known in (calibration, None):
        selection = nq.select(model, layers=["experts"], calibration=known)
        found = nq.fit(selection, "feedback", ratio=8, progress=False)
        with torch.no_grad():
            error[known is None] = float((found.apply(model)(x) - model(x)).square().mean())
    assert error[False] < 0.4 * error[True], error


@pytest.mark.parametrize("kind", ["x @ w", "linear"])
def test_weights_of_experts_that_were_pruned_stay_zero_and_the_file_keeps_the_rest(kind, tmp_path):
    torch.manual_seed(0)
    model = OneByOne(kind, 12, 10)
    with torch.no_grad():
        model.experts *= torch.rand(model.experts.shape) < 0.3
    calibration = nq.calibrate(model, [routed([40, 30, 50], 12, 10)], loss=functional.mse_loss, progress=False)
    selection = nq.select(model, calibration=calibration)
    found = nq.fit(selection, "feedback", ratio=12, progress=False)
    values = found.tensors["experts"].dequantize()
    assert not values[model.experts == 0].any()
    assert values.any()
    nq.save(found, tmp_path / "m.nbq")
    loaded = nq.load(tmp_path / "m.nbq").tensor("experts")
    assert torch.equal(loaded, values)
