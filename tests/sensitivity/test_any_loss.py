"""Losses as people write them: class weights, ignored labels, sequences, several outputs, losses inside the model."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional

from nbquant.sensitivity import sensitivity


def run(model, batches, method="gauss_newton", **options):
    return sensitivity(model, batches, method, progress=False, **options)


def hessian_of(model, loss, batches):
    """Hessian diagonal of one loss over all batches at once, for models that are linear in each weight."""
    named = {k: p.detach() for k, p in model.named_parameters()}
    x = torch.cat([x for x, _ in batches])
    y = torch.cat([y for _, y in batches])
    out = {}
    for name, p in named.items():

        def value(flat, name=name):
            output = torch.func.functional_call(model, {**named, name: flat.reshape(named[name].shape)}, (x,))
            return loss(output, y)

        out[name] = torch.autograd.functional.hessian(value, p.flatten()).diagonal().reshape(p.shape)
    return out


class Tokens(nn.Module):
    """Logits of every word; linear in each weight."""

    def __init__(self, wrap=lambda z: z):
        super().__init__()
        self.embed, self.out, self.wrap = nn.Embedding(9, 5), nn.Linear(5, 4), wrap

    def forward(self, ids):
        return self.wrap(self.out(self.embed(ids)))


@pytest.fixture
def words():
    """Unequal batches, more than half of the labels ignored, one batch with a single label."""
    ids, labels = torch.randint(9, (11, 6)), torch.randint(4, (11, 6))
    labels[torch.rand(11, 6) < 0.6] = -100
    labels[8:] = -100
    labels[9, 2] = 1
    return [(ids[:3], labels[:3]), (ids[3:8], labels[3:8]), (ids[8:], labels[8:])]


def flat(z, labels):
    return functional.cross_entropy(z.flatten(0, 1), labels.flatten())


def swapped(z, labels):
    return functional.cross_entropy(z.transpose(1, 2), labels)


def shifted(z, labels):
    return functional.cross_entropy(z[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def smoothed(z, labels):
    weight = torch.tensor([1.0, 3.0, 0.5, 2.0], dtype=z.dtype)
    return nn.CrossEntropyLoss(weight, label_smoothing=0.2)(z.flatten(0, 1), labels.flatten())


def masked(z, labels):
    each = functional.cross_entropy(z.transpose(1, 2), labels, reduction="none")
    return each.sum() / (labels != -100).sum()


def logarithms(z, labels):
    return functional.nll_loss(z.log_softmax(-1).transpose(1, 2), labels)


LOSSES = [flat, swapped, shifted, smoothed, masked, logarithms]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("method", ["gauss_newton", "exact"])
def test_sequences_with_ignored_labels(loss, method, words, oracle):
    model = Tokens().double()
    expected = hessian_of(model, loss, words)
    oracle.close(run(model, words, method, loss=loss), expected, 1e-9)
    # however samples are put into batches
    singles = [(x[None], y[None]) for xs, ys in words for x, y in zip(xs, ys, strict=True)]
    oracle.close(run(model, singles, method, loss=loss), expected, 1e-9)


@pytest.mark.parametrize("loss", LOSSES)
def test_draws_for_sequences_average_to_the_hessian(loss, words):
    model = Tokens().double()
    expected = hessian_of(model, loss, words)
    found = run(model, words, "gauss_newton_sampled", loss=loss, draws=300)
    for name, h in expected.items():
        assert float(found[name].sum() / h.sum()) == pytest.approx(1, abs=0.1)
        assert (found[name] - h).abs().max() < 0.35 * h.max()


@dataclass
class Out:
    logits: torch.Tensor
    hidden: torch.Tensor
    name: str = "kept"


WRAPS = {
    "tuple": (lambda z: (z, z.detach().sum()), lambda o: o[0]),
    "dict": (lambda z: {"logits": z, "count": torch.tensor(3)}, lambda o: o["logits"]),
    "dataclass": (lambda z: Out(z, z.tanh()), lambda o: o.logits if o.name == "kept" else None),
    "nested": (lambda z: ([z.tanh()], {"a": (z,)}), lambda o: o[1]["a"][0]),
}


@pytest.mark.parametrize("kind", WRAPS)
@pytest.mark.parametrize("method", ["gauss_newton", "empirical_fisher", "gauss_newton_sampled", "exact", "hutchinson"])
def test_the_loss_gets_the_output_as_the_model_gave_it(kind, method, words):
    wrap, pick = WRAPS[kind]
    plain = Tokens().double()
    model = Tokens(wrap).double()
    model.load_state_dict(plain.state_dict())
    expected = run(plain, words, method, loss=flat)
    found = run(model, words, method, loss=lambda output, labels: flat(pick(output), labels))
    for name in expected:
        assert torch.allclose(found[name], expected[name], rtol=1e-9), name


def test_two_outputs_with_a_loss_each(oracle):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.label, self.value = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(5, 2)

        def forward(self, x):
            z = self.body(x).tanh()
            return {"label": self.label(z), "value": self.value(z)}

    def loss(output, target):
        first = functional.cross_entropy(output["label"], target[:, 0].long())
        return first + 0.3 * functional.mse_loss(output["value"], target[:, 1:])

    class Joined(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            out = self.inner(x)
            return torch.cat([out["label"], out["value"]], 1)

    model = Two().double()
    x, t = torch.randn(6, 4).double(), torch.cat([torch.randint(3, (6, 1)).double(), torch.randn(6, 2).double()], 1)
    batches = [(x[:4], t[:4]), (x[4:], t[4:])]
    joined = oracle.brute_force_ggn(
        Joined(model), batches, lambda z, t: loss({"label": z[:, :3], "value": z[:, 3:]}, t)
    )
    expected = {name.removeprefix("inner."): h for name, h in joined.items()}
    oracle.close(run(model, batches, loss=loss), expected)
    drawn = run(model, batches, "gauss_newton_sampled", loss=loss, draws=1000)
    for name, h in expected.items():
        assert (drawn[name] - h).abs().max() < 0.3 * h.max()


class Inside(nn.Module):
    """Computes its loss from labels among its inputs, as the models of transformers do."""

    def __init__(self):
        super().__init__()
        self.tokens = Tokens()
        self.free = nn.Parameter(torch.randn(5))

    def forward(self, ids, labels=None):
        z = self.tokens.out(self.tokens.embed(ids) + self.free)
        return {"loss": None if labels is None else flat(z, labels), "logits": z}


def test_a_loss_inside_the_model(words, oracle):
    model = Inside().double()
    outside = run(model, words, loss=lambda output, labels: flat(output["logits"], labels))
    batches = [({"ids": ids, "labels": labels}, labels) for ids, labels in words]

    def inner(output, _):
        return output["loss"]

    oracle.close(run(model, batches, loss=inner), dict(outside), 1e-9)
    drawn = run(model, batches, "gauss_newton_sampled", loss=inner, draws=400)
    for name, h in outside.items():
        assert (drawn[name] - h).abs().max() < 0.5 * h.max()


def contrastive(output, target):
    """Every sample against all others of its batch."""
    z = functional.normalize(output, dim=1)
    return functional.cross_entropy(z @ z.T, target)


def test_a_loss_that_ties_samples_to_each_other(tanh_net):
    x = torch.randn(5, 3).double()
    batches = [(x, torch.tensor([1, 0, 3, 2, 4]))]
    z = tanh_net(x)
    rows = {
        name: torch.stack([torch.autograd.grad(entry, p, retain_graph=True)[0].flatten() for entry in z.flatten()])
        for name, p in tanh_net.named_parameters()
    }
    similar = functional.normalize(z.detach().requires_grad_(), dim=1)
    assert similar.shape == (5, 3)

    def compared(z):
        z = functional.normalize(z, dim=1)
        return z @ z.T

    jacobian = torch.autograd.functional.jacobian(compared, z.detach()).reshape(25, 15)
    p = compared(z.detach()).softmax(1)
    blocks = torch.block_diag(*[torch.diag(q) - torch.outer(q, q) for q in p]) / 5
    curvature = jacobian.T @ blocks @ jacobian
    found = run(tanh_net, batches, "gauss_newton_sampled", loss=contrastive, draws=4000)
    for name, row in rows.items():
        expected = torch.einsum("ki,kl,li->i", row, curvature, row).reshape(found[name].shape)
        assert (found[name] - expected).abs().max() < 0.15 * expected.max(), name


def test_batches_without_any_label_do_not_count(words, oracle):
    model = Tokens().double()
    ids = torch.randint(9, (2, 6))
    more = [*words, (ids, torch.full((2, 6), -100))]
    for method in ("gauss_newton", "exact", "empirical_fisher"):
        found = run(model, more, method, loss=flat)
        assert found.samples == 13 or method == "exact"
        share = 13 / 11 if method == "empirical_fisher" else 1.0
        oracle.close(found, {k: share * h for k, h in run(model, words, method, loss=flat).items()}, 1e-9)
    with pytest.raises(ValueError, match="all sensitivities of the 3 parameters are zero"):
        run(model, more[-1:], loss=flat)


@pytest.mark.parametrize(
    "loss",
    [
        functional.binary_cross_entropy_with_logits,
        functional.smooth_l1_loss,
        functional.poisson_nll_loss,
        nn.HuberLoss(delta=0.7),
        nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0, 5.0]).double()),
        lambda z, t: functional.kl_div(z.log_softmax(1), t.softmax(1), reduction="batchmean"),
        lambda z, t: functional.binary_cross_entropy(z.sigmoid(), t),
    ],
)
def test_losses_of_torch(loss, tanh_net, oracle):
    t = torch.rand(6, 3).double()
    batches = [(torch.randn(4, 3).double(), t[:4]), (torch.randn(2, 3).double(), t[4:])]
    expected = oracle.brute_force_ggn(tanh_net, batches, loss)
    exact = run(tanh_net, batches, loss=loss)
    if "sigmoid" in getattr(getattr(loss, "__code__", None), "co_names", ()):
        # Gauss-Newton of the probabilities leaves the sigmoid's own curvature out.
        assert all((h >= 0).all() and h.any() for h in exact.values())
        return
    oracle.close(exact, {k: h.clamp(min=0) for k, h in expected.items()}, 1e-6)


SIZES = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def of_transformers(kind):
    """A small random model of transformers with a batch that holds its labels."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    ids = torch.randint(3, 32, (4, 6))
    labels = ids.masked_fill(torch.rand(4, 6) < 0.3, -100)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if kind == "Llama":
        config = transformers.LlamaConfig(**SIZES, tie_word_embeddings=True)
        return transformers.LlamaForCausalLM(config).double().eval(), inputs | {"labels": labels}, labels
    if kind == "Mixtral":
        config = transformers.MixtralConfig(**SIZES, num_local_experts=3, num_key_value_heads=1)
        return transformers.MixtralForCausalLM(config).eval(), inputs | {"labels": labels}, labels
    config = transformers.CLIPConfig(
        text_config={**SIZES, "projection_dim": 8, "eos_token_id": 2, "bos_token_id": 1, "max_position_embeddings": 8},
        vision_config={
            **{key: value for key, value in SIZES.items() if key != "vocab_size"},
            "image_size": 8,
            "patch_size": 4,
            "projection_dim": 8,
        },
        projection_dim=8,
    )
    more = {"pixel_values": torch.randn(4, 3, 8, 8), "return_loss": True}
    return transformers.CLIPModel(config).eval(), inputs | more, labels


@pytest.mark.parametrize("kind", ["Llama", "Mixtral"])
def test_models_of_transformers_with_and_without_their_own_loss(kind):
    model, inputs, labels = of_transformers(kind)
    plain = {key: value for key, value in inputs.items() if key != "labels"}

    def shifted_loss(output, labels):
        return functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    for method in ("gauss_newton", "empirical_fisher"):
        own = run(model, [(inputs, labels)], method, loss=lambda output, _: output.loss)
        other = run(model, [(plain, labels)], method, loss=shifted_loss)
        for name, h in other.items():
            share = 1.0 if method == "gauss_newton" else float(own[name].sum() / h.sum())
            assert torch.allclose(own[name], share * h, rtol=1e-3, atol=1e-5 * float(h.max())), name


def test_a_contrastive_model_of_transformers():
    model, inputs, labels = of_transformers("CLIP")
    found = run(model, [(inputs, labels)], "gauss_newton_sampled", loss=lambda output, _: output.loss, draws=2)
    assert all(h.any() for name, h in found.items() if name.endswith("weight") and "embedding" not in name)
    with pytest.raises(ValueError, match="none was found along which CLIPModel gives the same outputs"):
        run(model, [(inputs, labels)], "empirical_fisher", loss=lambda output, _: output.loss)


def test_a_loss_inside_the_model_that_has_no_closed_form():
    class Odd(Inside):
        def forward(self, ids, labels=None):
            found = super().forward(ids, labels)
            return {"loss": found["logits"].pow(4).mean(), "logits": found["logits"]}

    ids = torch.randint(9, (4, 6))
    with pytest.raises(ValueError, match=r"Odd computes its loss itself, by none of torch's losses"):
        run(Odd().double(), [({"ids": ids}, ids)], loss=lambda output, _: output["loss"])


@pytest.mark.parametrize("method", ["gauss_newton_sampled", "gauss_newton", "empirical_fisher", "adam", "exact"])
def test_nothing_but_ignored_labels_is_refused(method):
    batches = [(torch.randn(8, 10), torch.full((8,), -100))]
    with pytest.raises(ValueError, match=r"are zero .* or all labels are ignored"):
        run(nn.Linear(10, 64), batches, method)


def test_data_in_the_place_of_batches_says_which_to_pass():
    from nbquant import zoo

    model, data = zoo.load("lenet5-fashion")
    with pytest.raises(TypeError, match=r"a Dataset came: pass its \.calibration"):
        run(model, data)
