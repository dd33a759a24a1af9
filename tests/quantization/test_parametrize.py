import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize

import nbquant as nq
from nbquant.models.select import select
from nbquant.quantization.codebook import PRUNED
from nbquant.quantization.parametrize import CHUNK, movable, sum_by_codeword


class Tied(nn.Module):
    """Embedding and output share a weight; the middle layer has a bias of its own."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.embedding = nn.Embedding(7, 5, dtype=dtype)
        self.middle = nn.Linear(5, 5, dtype=dtype)
        self.out = nn.Linear(5, 7, bias=False, dtype=dtype)
        self.out.weight = self.embedding.weight

    def forward(self, index):
        return self.out(self.middle(self.embedding(index)).relu())


def tied(dtype=torch.float32, zeros=False):
    torch.manual_seed(0)
    model = Tied(dtype)
    if zeros:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(torch.rand_like(parameter, dtype=torch.float32) > 0.7)
    return model


def quantized_of(model, **options):
    return nq.KMeans(**{"levels": 4, "weighted": False, **options}).fit(select(model))


def lookups(model):
    return {name: module for name, module in model.named_modules() if type(module).__name__ == "Lookup"}


INDEX = torch.tensor([0, 3, 6, 3])


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_weights_are_those_of_apply(dtype, per_layer, zeros):
    model = tied(dtype, zeros)
    q = quantized_of(model, per_layer=per_layer)
    dense, shared = q.apply(model), q.parametrize(model)
    for name, parameter in dense.named_parameters(remove_duplicate=False):
        owner, _, own = name.rpartition(".")
        weight = getattr(shared.get_submodule(owner), own)
        assert weight.dtype == dtype
        assert torch.equal(weight, parameter), name
    assert torch.equal(shared(INDEX), dense(INDEX))
    codebooks = {id(look.codebook) for look in lookups(shared).values()}
    assert len(codebooks) == len(q.codebooks) == (2 if per_layer else 1)
    assert all(look.assignment.element_size() == 1 for look in lookups(shared).values())


def test_the_model_and_the_quantized_stay_as_they_are():
    model = tied(zeros=True)
    q = quantized_of(model)
    before, weights = copy.deepcopy(model.state_dict()), q.dequantize()
    shared = q.parametrize(model)
    shared(INDEX).sum().backward()
    torch.optim.SGD(shared.parameters(), lr=1.0).step()
    for buffer in shared.buffers():
        buffer.zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, weights[name]) for name, value in q.dequantize().items())


@pytest.mark.parametrize("per_layer", [False, True])
def test_gradient_is_the_sum_over_members(per_layer):
    model = tied(torch.float64, zeros=True)
    q = quantized_of(model, per_layer=per_layer)
    dense, shared = q.apply(model), q.parametrize(model)
    for network in (dense, shared):
        network(INDEX).square().sum().backward()
    for group, book in q.codebooks.items():
        expected = torch.zeros_like(book.value)
        for name, tensor in q.tensors.items():
            if q.group_of(name) == group:
                gradient = dense.get_parameter(name).grad.reshape(-1)
                for j in range(len(expected)):
                    expected[j] += gradient[tensor.assignment == j].sum()
        (codebook,) = {
            id(look.codebook): look.codebook
            for name, look in lookups(shared).items()
            if q.group_of(name.partition(".parametrizations")[0] + ".weight") == group
        }.values()
        torch.testing.assert_close(codebook.grad, expected)


def test_derivatives_of_second_order():
    model = tied(torch.float64)
    shared = quantized_of(model).parametrize(model)
    (codebook,) = {id(look.codebook): look.codebook for look in lookups(shared).values()}.values()

    def loss(value):
        own = {n: value for n, _ in shared.named_parameters(remove_duplicate=False) if n.endswith("codebook")}
        return torch.func.functional_call(shared, own, (INDEX,)).square().sum()

    assert torch.autograd.gradcheck(loss, (codebook,))
    assert torch.autograd.gradgradcheck(loss, (codebook,))


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.5),
        lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.5),
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.5),
    ],
)
def test_zero_stays_zero(optimizer):
    model = tied()
    with torch.no_grad():
        model.middle.weight[:3] = 0  # fewer than half: zero is a codeword
    q = quantized_of(model, pinned_zero=True)
    assert not any((t.assignment == PRUNED).any() for t in q.tensors.values())
    shared = q.parametrize(model)
    made = optimizer(shared.parameters())
    for _ in range(5):
        made.zero_grad()
        shared(INDEX).square().sum().backward()
        made.step()
    (codebook,) = {id(look.codebook): look.codebook for look in lookups(shared).values()}.values()
    assert ((codebook == 0) == (q.codebook == 0)).all()
    assert int((q.codebook == 0).sum()) == 1
    moved = (codebook != q.codebook)[q.codebook != 0]
    assert moved.all()
    zero = q.dequantize()["middle.weight"] == 0
    assert (shared.middle.weight[zero] == 0).all()
    assert zero.any()


def test_pruned_weights_stay_zero():
    model = tied(zeros=True)
    q = quantized_of(model)
    shared = q.parametrize(model)
    made = torch.optim.Adam(shared.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        shared(INDEX).square().sum().backward()
        made.step()
    pruned = (q.tensors["middle.weight"].assignment == PRUNED).view(5, 5)
    assert pruned.any()
    assert ((shared.middle.weight == 0) == pruned).all()


@pytest.mark.parametrize("per_layer", [False, True])
def test_state_goes_from_one_copy_into_another(per_layer):
    model = tied(zeros=True)
    q = quantized_of(model, per_layer=per_layer)
    one, two = q.parametrize(model), q.with_values({g: 2 * b.value for g, b in q.codebooks.items()}).parametrize(model)
    assert not torch.equal(one(INDEX), two(INDEX))
    two.load_state_dict(one.state_dict(), strict=True)
    assert torch.equal(one(INDEX), two(INDEX))
    assert len({id(look.codebook) for look in lookups(two).values()}) == len(q.codebooks)
    assert two.embedding.parametrizations.weight[0] is two.out.parametrizations.weight[0]


@pytest.mark.parametrize(
    "change", [copy.deepcopy, lambda m: m.to(torch.float64), lambda m: m.bfloat16(), nn.Module.eval]
)
def test_shared_stays_shared(change):
    model = tied()
    shared = change(quantized_of(model).parametrize(model))
    assert len({id(look.codebook) for look in lookups(shared).values()}) == 1
    assert shared.middle.weight.dtype == shared.embedding.weight.dtype == next(iter(shared.parameters())).dtype
    shared(INDEX).sum().backward()
    assert len(list(shared.parameters())) == 1 + 3  # the others are empty, and tell the dtype of a weight
    assert sum(parameter.numel() for parameter in shared.parameters()) == 4


def test_dtypes_may_differ():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, dtype=torch.bfloat16))
    q = quantized_of(model)
    shared = q.parametrize(model)
    assert shared[0].parametrizations.weight[0].codebook is shared[1].parametrizations.weight[0].codebook
    assert shared[1].weight.dtype == torch.bfloat16
    assert torch.equal(shared[1].weight, q.dequantize()["1.weight"])
    shared[1](shared[0](torch.ones(1, 3)).bfloat16()).sum().backward()
    assert shared[0].parametrizations.weight[0].codebook.grad.dtype == torch.float32


def test_removing_makes_it_dense_again():
    model = tied()
    q = quantized_of(model)
    dense, shared = q.apply(model), q.parametrize(model)
    for module in (shared.embedding, shared.middle, shared.out):
        for name in list(getattr(module, "parametrizations", ())):
            parametrize.remove_parametrizations(module, name)
    assert shared.embedding.weight is shared.out.weight
    assert shared.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, dense.state_dict()[name]) for name, value in shared.state_dict().items())
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in shared.parameters())


def test_one_module_under_two_names():
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    q = quantized_of(model)
    shared = q.parametrize(model)
    assert shared[0] is shared[2]
    assert torch.equal(shared(torch.ones(3)), q.apply(model)(torch.ones(3)))


def test_a_weight_cannot_be_assigned():
    model = tied()
    shared = quantized_of(model).parametrize(model)
    with pytest.raises(RuntimeError, match="right_inverse"):
        shared.middle.weight = torch.zeros(5, 5)


def test_what_does_not_fit_is_refused():
    q = quantized_of(tied())
    with pytest.raises(ValueError, match=r"the model must have the parameter 'embedding.weight'"):
        q.parametrize(nn.Linear(2, 2))
    other = tied()
    other.middle = nn.Linear(5, 4)
    with pytest.raises(ValueError, match=r"'middle.weight' must have the shape \(5, 5\), but has \(4, 5\)"):
        q.parametrize(other)
    recurrent = nn.Sequential(nn.LSTM(3, 4))
    with pytest.raises(ValueError, match=r"'0\.weight_ih_l0' is in a LSTM, which keeps a list of its own"):
        quantized_of(recurrent).parametrize(recurrent)


@given(st.lists(st.integers(-1, 5), max_size=40), st.integers(0, 2**31))
def test_sums_by_codeword(indices, seed):
    values = torch.randn(len(indices), generator=torch.Generator().manual_seed(seed))
    index = torch.tensor(indices, dtype=torch.int8)
    found = sum_by_codeword(values, index, 6)
    for j in range(6):
        assert float(found[j]) == pytest.approx(sum(float(v) for v, i in zip(values, indices, strict=True) if i == j))


def test_sums_of_more_than_a_chunk_and_of_sparse_gradients():
    index = (torch.arange(CHUNK + 5) % 3 - 1).to(torch.int8)
    values = torch.ones(CHUNK + 5)
    assert sum_by_codeword(values, index, 2).tolist() == [int((index == j).sum()) for j in range(2)]
    sparse = torch.tensor([[0.0, 2.0], [0.0, 0.0], [1.0, 0.0]]).to_sparse()
    assert sum_by_codeword(sparse, torch.tensor([0, 0, 1, 1, -1, 1], dtype=torch.int8), 2).tolist() == [2.0, 0.0]


def test_members_of_zero_do_not_move():
    index = torch.tensor([0, 1, 2, -1], dtype=torch.int8)
    assert movable(torch.tensor([-1.0, 0.0, 2.0]), index).tolist() == [0, -1, 2, -1]
    assert movable(torch.tensor([-1.0, 1.0, 2.0]), index).tolist() == [0, 1, 2, -1]
    assert index.tolist() == [0, 1, 2, -1]
