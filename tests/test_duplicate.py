import warnings
from contextlib import suppress

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import nbquant as nq
from nbquant.duplicate import duplicate

X, Y = torch.randn(9, 6, generator=torch.Generator().manual_seed(3)), torch.arange(9) % 3


class KeepsTensors(nn.Module):
    """Holds tensors with a gradient function as plain attributes."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.computed = {"doubled": [self.layer.weight * 2]}
        self.transposed = self.layer.weight.t()

    def forward(self, x):
        return self.layer(x) + x @ self.transposed


def chain(change=lambda model: None, *layers):
    torch.manual_seed(0)
    model = nn.Sequential(*(layers or (nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))))
    change(model)
    return model


def old(norm):
    def change(model):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            norm(model[0])

    return change


def tie(model):
    model[2].weight = model[0].weight


def share():
    layer = nn.Linear(6, 6)
    return chain(lambda model: None, layer, nn.ReLU(), layer, nn.Linear(6, 3))


def freeze(model):
    model[0].requires_grad_(False)


MODELS = {
    "plain": chain,
    "weight_norm": lambda: chain(lambda m: parametrizations.weight_norm(m[0])),
    "orthogonal": lambda: chain(lambda m: parametrizations.orthogonal(m[0])),
    "spectral_norm": lambda: chain(lambda m: parametrizations.spectral_norm(m[0])),
    "old weight_norm": lambda: chain(old(nn.utils.weight_norm)),
    "old spectral_norm": lambda: chain(old(nn.utils.spectral_norm)),
    "masked": lambda: chain(lambda m: prune.l1_unstructured(m[0], "weight", 0.5)),
    "attributes": KeepsTensors,
    "tied": lambda: chain(tie, nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 3)),
    "shared": share,
    "frozen": lambda: chain(freeze),
    "compiled": lambda: torch.compile(chain(), backend="eager"),
    "compiled in place": lambda: compiled_in_place(chain()),
}


def compiled_in_place(model):
    model.compile(backend="eager")
    return model


def cancel(*_):
    raise nq.progress.Cancelled


def interrupt(*_):
    raise KeyboardInterrupt


def moments(model):
    found = nq.calibrate(model, [(X, Y)], progress=False)
    for layer in found.outputs:
        found.moments(layer, {name: torch.zeros_like(p) for name, p in model.named_parameters()})


VERBS = {
    "apply": lambda m, q: q.apply(m)(X),
    "parametrize": lambda m, q: q.parametrize(m)(X),
    "finetune": lambda m, q: nq.finetune(q, m, [(X, Y)], progress=False),
    "prune": lambda m, q: nq.prune(m, 0.5, progress=False).model(X),
    "prune and train": lambda m, q: nq.prune(m, 0.5, [(X, Y)], steps=2, progress=False).model(X),
    "finetune interrupted": lambda m, q: nq.finetune(q, m, [(X, Y)], progress=interrupt),
    "prune cancelled": lambda m, q: nq.prune(m, 0.5, [(X, Y)], progress=cancel),
    "calibrate": lambda m, q: moments(m),
    "calibrate interrupted": lambda m, q: nq.calibrate(m, [(X, Y)], progress=interrupt),
    "sensitivity": lambda m, q: nq.sensitivity(m, [(X, Y)], progress=False),
    "sensitivity cancelled": lambda m, q: nq.sensitivity(m, [(X, Y)], progress=cancel),
    "evaluate": lambda m, q: nq.evaluate(m, [(X, Y)], progress=False),
}


def seen(model):
    """All that must not change, with the identity of each parameter."""
    modes = [module.training for module in model.modules()]
    parameters = dict(model.named_parameters(remove_duplicate=False))
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    grads = {name: None if p.grad is None else p.grad.clone() for name, p in parameters.items()}
    kept = {name: (id(p), type(p), p.requires_grad) for name, p in parameters.items()}
    model.eval()  # a spectral norm in training changes with each look at it
    with torch.no_grad():
        output = model(X)
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    return {"output": output, **state}, grads, kept, modes


@pytest.mark.filterwarnings("ignore")  # torch's compiler warns about itself
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", MODELS)
def test_no_verb_changes_the_model_it_is_given(name, verb):
    model = MODELS[name]().train()
    nn.functional.cross_entropy(model(X), Y).backward(retain_graph=True)
    values, grads, kept, modes = seen(model)
    with suppress(ValueError, nq.progress.Cancelled, KeyboardInterrupt):  # a refusal must leave it alone too
        VERBS[verb](model, nq.fit(nq.select(model), "kmeans", levels=4, progress=False))
    after, grads_after, kept_after, modes_after = seen(model)
    assert after.keys() == values.keys()
    assert all(torch.equal(after[name], value) for name, value in values.items())
    assert all(g is None if grads[n] is None else torch.equal(g, grads[n]) for n, g in grads_after.items())
    assert kept_after == kept
    assert modes_after == modes


@pytest.mark.parametrize("name", MODELS)
def test_a_copy_gives_the_same_and_shares_no_memory(name):
    model = MODELS[name]().eval()
    copied = duplicate(model)
    assert torch.equal(copied(X), model(X))
    assert [n for n, _ in copied.named_parameters()] == [n for n, _ in model.named_parameters()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.fill_(3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["weight_norm", "orthogonal", "spectral_norm"])
def test_parametrizations_of_a_copy_come_and_go_without_the_original(name):
    model = MODELS[name]().eval()
    output = model(X)
    first, second = duplicate(model), duplicate(model)
    parametrize.register_parametrization(first[0], "bias", nn.Identity())
    parametrize.remove_parametrizations(second[0], "weight")
    second.double()
    torch.testing.assert_close(first(X), output)
    torch.testing.assert_close(second(X.double()).float(), output)
    assert torch.equal(model(X), output)
    parametrize.remove_parametrizations(model[0], "weight")
    torch.testing.assert_close(first(X), output)
    torch.testing.assert_close(duplicate(first)(X), output)


def test_parametrized_modules_in_plain_lists_are_apart_too():
    model = chain()
    model.others = [parametrizations.weight_norm(nn.Linear(6, 3))]
    copied = duplicate(model)
    parametrize.remove_parametrizations(copied.others[0], "weight")
    assert model.others[0](X).shape == (9, 3)


def test_a_view_of_a_parameter_follows_the_parameter_of_the_copy():
    model = KeepsTensors()
    quantized = nq.fit(nq.select(model), "kmeans", levels=2, progress=False)
    copied = quantized.apply(model)
    assert torch.equal(copied.transposed, copied.layer.weight.t())
    assert not torch.equal(copied.transposed, model.transposed)
    assert torch.equal(copied.computed["doubled"][0], model.computed["doubled"][0])


def test_tied_parameters_and_shared_modules_stay_so():
    tied, shared = duplicate(MODELS["tied"]()), duplicate(share())
    assert tied[0].weight is tied[2].weight
    assert shared[0] is shared[2]


def test_what_cannot_be_copied_is_refused_with_the_reason():
    class Uncopyable(nn.Linear):
        def __deepcopy__(self, memo):
            raise RuntimeError("these weights only work where they are. More about it.")

    model = nn.Sequential(Uncopyable(6, 3))
    quantized = nq.fit(nq.select(model), "kmeans", levels=2, progress=False)
    with pytest.raises(
        ValueError, match=r"this Sequential cannot be \(these weights only work where they are\): remove"
    ):
        quantized.apply(model)
