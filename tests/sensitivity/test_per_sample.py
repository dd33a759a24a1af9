"""Every kind of layer, by formula and by the general path, against brute force."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from nbquant.sensitivity import per_sample, sensitivity, taps


def gn(model, batches, **options):
    return sensitivity(model, batches, "gauss_newton", progress=False, **options)


class Head(nn.Module):
    """Any body with tensor output, averaged to four outputs."""

    def __init__(self, body, pick=lambda y: y):
        super().__init__()
        self.body, self.pick = body, pick

    def forward(self, x):
        y = self.pick(self.body(x)).flatten(1)
        y = y * torch.arange(1, y.shape[1] + 1).to(y).cos()  # unequal, as cross-entropy does not see a common shift
        return functional.adaptive_avg_pool1d(y.unsqueeze(1), 4).squeeze(1)


def scaled(layer):
    nn.init.normal_(layer.weight)
    return layer


def normed(layer):
    for value in (layer.weight, layer.bias):
        nn.init.normal_(value)
    if getattr(layer, "running_mean", None) is not None:
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2)
    return layer


FORMULAS = {
    "linear": (lambda: nn.Linear(5, 6), (5,)),
    "linear without bias": (lambda: nn.Linear(5, 6, bias=False), (5,)),
    "linear, sequence": (lambda: nn.Linear(3, 6), (4, 3)),
    "linear, two of them": (lambda: nn.Linear(3, 6), (2, 3, 3)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2), (4, 9)),
    "conv2d": (lambda: nn.Conv2d(2, 4, 3), (2, 6, 5)),
    "conv2d, all options": (lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 2), (1, 2), 2, bias=False), (4, 7, 6)),
    "conv2d, depthwise": (lambda: nn.Conv2d(3, 6, 3, padding=1, groups=3), (3, 5, 5)),
    "conv2d, same": (lambda: nn.Conv2d(2, 3, (4, 3), padding="same"), (2, 5, 5)),
    "conv2d, valid": (lambda: nn.Conv2d(2, 3, 2, padding="valid"), (2, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, stride=(1, 2, 1), padding=1), (2, 3, 4, 3)),
    "batch norm 1d": (lambda: normed(nn.BatchNorm1d(5)), (5,)),
    "batch norm 2d": (lambda: normed(nn.BatchNorm2d(3)), (3, 4, 4)),
    "group norm": (lambda: normed(nn.GroupNorm(2, 4)), (4, 3, 3)),
    "layer norm": (lambda: normed(nn.LayerNorm(6)), (6,)),
    "layer norm, sequence": (lambda: normed(nn.LayerNorm((3, 4))), (2, 3, 4)),
    "rms norm": (lambda: scaled(nn.RMSNorm(6, eps=1e-5)), (6,)),
    "rms norm, sequence": (lambda: scaled(nn.RMSNorm(4)), (5, 4)),
    "prelu": (lambda: nn.PReLU(), (8,)),
    "prelu, channels": (lambda: scaled(nn.PReLU(3)), (3, 5)),
    "prelu, channels without places": (lambda: scaled(nn.PReLU(6)), (6,)),
    "transposed conv": (lambda: nn.ConvTranspose2d(2, 3, 3), (2, 4, 4)),
    "transposed conv, all options": (
        lambda: nn.ConvTranspose2d(4, 6, 3, (2, 3), 1, (1, 2), 2, False, (1, 2)),
        (4, 4, 3),
    ),
    "transposed conv1d": (lambda: nn.ConvTranspose1d(4, 2, 4, 2, 1), (4, 5)),
    "transposed conv3d": (lambda: nn.ConvTranspose3d(2, 2, 2, (1, 2, 1), 0, (0, 1, 0)), (2, 2, 3, 2)),
    "a subclass of linear": (lambda: Mine(5, 6), (5,)),
}
GENERAL = {
    "conv2d, reflected": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 5, 5)),
    "instance norm": (lambda: normed(nn.InstanceNorm1d(3, affine=True)), (3, 5)),
    "parametrized": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 5, bias=False)), (4,)),
    "a subclass with a forward of its own": (lambda: Doubled(4, 5), (4,)),
    "bilinear": (lambda: Twice(), (4,)),
}


class Mine(nn.Linear):
    pass


class Doubled(nn.Linear):
    def forward(self, x):
        return functional.linear(x, 2 * self.weight, self.bias) + functional.linear(x, self.weight)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Bilinear(4, 4, 5)

    def forward(self, x):
        return self.layer(x, x.tanh())


def general_names(model, batches, monkeypatch):
    """Parameters that did not go by formula."""
    seen = []
    others = per_sample._others

    def spy(problem, taps):
        seen[:] = others(problem, taps)
        return list(seen)

    with monkeypatch.context() as patch:
        patch.setattr(per_sample, "_others", spy)
        h = gn(model, batches)
    return h, seen


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("kind", FORMULAS)
def test_formula_equals_brute_force_and_general_path(kind, oracle, monkeypatch):
    make, shape = FORMULAS[kind]
    model = Head(make()).double()
    x, y = torch.randn(5, *shape, dtype=torch.float64), torch.randint(4, (5,))
    h, others = general_names(model, [(x[:3], y[:3]), (x[3:], y[3:])], monkeypatch)
    assert others == []
    oracle.close(h, oracle.brute_force_ggn(model, [(x, y)]))
    monkeypatch.setattr(taps, "is_supported", lambda layer: False)
    general, others = general_names(model, [(x, y)], monkeypatch)
    assert others == list(h)
    oracle.close(general, dict(h))


@pytest.mark.parametrize("kind", GENERAL)
def test_general_path_equals_brute_force(kind, oracle, monkeypatch):
    make, shape = GENERAL[kind]
    model = Head(make()).double()
    batches = [(torch.randn(4, *shape, dtype=torch.float64), torch.randint(4, (4,)))]
    h, others = general_names(model, batches, monkeypatch)
    assert others == list(h)
    oracle.close(h, oracle.brute_force_ggn(model, batches))


@pytest.mark.parametrize("first", [True, False], ids=["batch first", "time first"])
@pytest.mark.parametrize("words", [2, 3])
@pytest.mark.parametrize("recurrence", [nn.LSTM, nn.GRU])
def test_recurrent_network(recurrence, first, words, oracle):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(7, 3, padding_idx=0)
            self.rnn = recurrence(3, 4, batch_first=first)
            self.fc = nn.Linear(4, 3)

        def forward(self, ids):
            y, _ = self.rnn(self.embed(ids if first else ids.T))
            return self.fc(y)[:, -1] if first else self.fc(y)[-1]

    net = Net().double()
    batches = [
        (torch.randint(7, (3, words)), torch.randint(3, (3,))),
        (torch.randint(7, (2, words)), torch.zeros(2).long()),
    ]
    oracle.close(gn(net, batches), oracle.brute_force_ggn(net, batches))


def test_embedding_adds_repeated_words_before_squaring(oracle, monkeypatch):
    net = nn.Sequential(nn.Embedding(6, 4, padding_idx=1), nn.Flatten(), nn.Linear(12, 3)).double()
    batches = [(torch.tensor([[2, 2, 1], [2, 3, 3], [5, 5, 5]]), torch.tensor([0, 1, 2]))]
    h, others = general_names(net, batches, monkeypatch)
    assert others == []
    assert not h["0.weight"][1].any()
    oracle.close(h, oracle.brute_force_ggn(net, batches))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("words", [2, 4])
def test_transformer_layer(batch_first, words, oracle, monkeypatch):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=batch_first, norm_first=True)
            self.fc = nn.Linear(4, 3)
            self.position = nn.Parameter(torch.randn(words, 4))

        def forward(self, x):
            x = x + self.position
            y = self.layer(x if batch_first else x.transpose(0, 1))
            return self.fc(y).mean(1 if batch_first else 0)

    net = Net().double()
    batches = [(torch.randn(3, words, 4).double(), torch.randint(3, (3,)))]
    h, others = general_names(net, batches, monkeypatch)
    assert others[0] == "position"
    assert ("layer.linear1.weight" in others) != batch_first  # the attention puts samples first by itself
    assert "layer.self_attn.in_proj_weight" not in others
    assert "layer.self_attn.out_proj.weight" not in others
    oracle.close(h, oracle.brute_force_ggn(net, batches))


def test_attention_with_several_inputs(oracle):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, query, memory, padding):
            return self.attention(query, memory, memory, key_padding_mask=padding)[0].flatten(1)

    net = Net().double()
    query, memory = torch.randn(3, 1, 4).double(), torch.randn(3, 5, 4).double()
    padding = torch.zeros(3, 5).bool()
    padding[0, 3:] = True
    target = torch.randint(4, (3,))
    expected = oracle.brute_force_ggn(net, [((query, memory, padding), target)])
    oracle.close(gn(net, [((query, memory, padding), target)]), expected)
    oracle.close(gn(net, [({"query": query, "memory": memory, "padding": padding}, target)]), expected)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.out = nn.Linear(3, 5, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, ids):
        return self.out(self.embed(ids).tanh().mean(1))


class Again(nn.Module):
    """One layer called twice, one weight used without its layer, one layer never called."""

    def __init__(self):
        super().__init__()
        self.layer, self.other, self.lazy = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = self.layer(self.layer(x).tanh()).tanh()
        x = self.other(x) + functional.linear(x, self.other.weight)
        return functional.linear(x, self.lazy.weight, self.lazy.bias)


class InPlace(nn.Module):
    """What a hook keeps is overwritten afterwards."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.b(self.a(x).relu_()).tanh_().mul(2)


@pytest.mark.parametrize("net", [Tied, Again, InPlace])
def test_weights_used_in_unusual_ways(net, oracle):
    model = net().double()
    x = torch.randint(5, (4, 3)) if net is Tied else torch.randn(4, 4).double()
    batches = [(x, torch.randint(4, (4,)))]
    oracle.close(gn(model, batches), oracle.brute_force_ggn(model, batches))


def test_a_users_hook_that_changes_the_output_is_respected(tanh_net, rows, oracle):
    tanh_net[0].register_forward_hook(lambda layer, args, output: output * 3)
    oracle.close(gn(tanh_net, rows), oracle.brute_force_ggn(tanh_net, rows))


def test_samples_that_influence_each_other_are_refused():
    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x):
            return self.fc(x - x.mean(0))

    batches = [(torch.randn(4, 3), torch.zeros(4).long())]
    with pytest.raises(ValueError, match=r"changes by .*other samples"):
        gn(Centred(), batches)
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, track_running_stats=False))
    with pytest.raises(ValueError, match="BatchNorm1d without running statistics"):
        gn(net, batches)


def test_an_output_without_samples_or_no_tensor_is_refused():
    class Pair(nn.Module):
        def __init__(self, pick):
            super().__init__()
            self.fc, self.pick = nn.Linear(3, 2), pick

        def forward(self, x):
            return self.pick(self.fc(x))

    batches = [(torch.randn(4, 3), torch.zeros(4).long())]
    with pytest.raises(TypeError, match=r"returned tuple: pass loss=lambda"):
        gn(Pair(lambda y: (y, y)), batches)
    with pytest.raises(ValueError, match=r"none was found along which Pair gives the same outputs"):
        gn(Pair(lambda y: y.reshape(1, -1)), batches, loss=lambda output, target: output.square().mean())
