import torch
from torch.nn import functional

from nbquant.models.gpt import Gpt
from nbquant.models.python_docs import WINDOW


def test_later_characters_change_no_earlier_logit():
    model = Gpt(width=16, layers=2, heads=2).eval()
    text = torch.randint(0, 128, (3, 20))
    changed = text.clone()
    changed[:, 12] = (text[:, 12] + 1) % 128
    with torch.no_grad():
        before, after = model(text), model(changed)
    torch.testing.assert_close(after[:, :, :12], before[:, :, :12])
    assert ((after - before).abs().amax(dim=(0, 1)) > 1e-6)[12:].all(), "and every later one"


def test_classes_are_along_the_second_dimension():
    model = Gpt(width=16, layers=1, heads=2, vocabulary=50)
    text = torch.randint(0, 50, (3, WINDOW))
    logits = model(text)
    assert logits.shape == (3, 50, WINDOW)
    assert functional.cross_entropy(logits, text).ndim == 0
    assert model(text[:, :7]).shape == (3, 50, 7)


def test_one_matrix_for_characters_in_and_out():
    model = Gpt()
    assert model.head.weight is model.embedding.weight
    assert [name for name, _ in model.named_parameters() if name.startswith(("embedding", "head"))] == [
        "embedding.weight"
    ]
    assert sum(p.numel() for p in model.parameters()) == 826_112


def test_a_layer_is_attention_written_out():
    """Softmax over the characters so far, head by head, and two linear layers, each added to what came in."""
    torch.manual_seed(0)
    layer = Gpt(width=8, layers=1, heads=2).layers[0]
    x = torch.randn(1, 5, 8)
    q, k, v = layer.qkv(layer.norm1(x))[0].split(8, dim=-1)
    found = torch.zeros(5, 8)
    for head in (slice(0, 4), slice(4, 8)):
        for t in range(5):
            weight = (k[: t + 1, head] @ q[t, head] / 2).softmax(0)  # √4 = 2
            found[t, head] = weight @ v[: t + 1, head]
    y = x + layer.out(found)
    torch.testing.assert_close(layer(x), y + layer.down(functional.gelu(layer.up(layer.norm2(y)))))


def test_position_matters():
    model = Gpt(width=16, layers=1, heads=2).eval()
    with torch.no_grad():
        logits = model(torch.full((1, 6), 65))
    assert not torch.allclose(logits[:, :, 0], logits[:, :, 5])
