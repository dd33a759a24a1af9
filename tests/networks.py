"""Networks as people bring them, each with a batch and a loss: for tests on small sizes, and for benchmarks."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nbquant.models.gpt import Gpt


class LstmLanguageModel(nn.Module):
    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(words, width), nn.LSTM(width, width, 2, batch_first=True)
        self.out = nn.Linear(width, words)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.rnn(self.embed(ids))[0])


class EncoderDecoder(nn.Module):
    """Translates with two recurrences and attention between them; time comes first inside."""

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width, padding_idx=0)
        self.encoder, self.decoder = nn.GRU(width, width), nn.GRU(width, width)
        self.out = nn.Linear(2 * width, words)

    def forward(self, source: Tensor, target: Tensor) -> dict[str, Tensor]:
        seen, state = self.encoder(self.embed(source).transpose(0, 1))
        own, _ = self.decoder(self.embed(target).transpose(0, 1), state)
        own, seen = own.transpose(0, 1), seen.transpose(0, 1)
        found = (own @ seen.transpose(1, 2)).softmax(-1) @ seen
        return {"logits": self.out(torch.cat([own, found], -1)), "state": state}


class Vit(nn.Module):
    """A class token and positions are parameters of the network itself."""

    def __init__(self, width: int, layers: int, patches: int, classes: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, patches**2 + 1, width))
        self.patch = nn.Conv2d(3, width, 4, 4)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.position
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)[:, 0])


class Depthwise(nn.Module):
    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        layers = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width)]
        for inputs, outputs, stride in ((1, 2, 2), (2, 4, 1), (4, 4, 2), (4, 8, 1), (8, 8, 1)):
            a, b = width * inputs, width * outputs
            layers += [nn.Conv2d(a, a, 3, stride, 1, groups=a, bias=False), nn.BatchNorm2d(a), nn.PReLU(a)]
            layers += [nn.Conv2d(a, b, 1, bias=False), nn.BatchNorm2d(b), nn.PReLU(b)]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(8 * width, classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.body(image).mean((2, 3)))


class UNet(nn.Module):
    """A class for every pixel: down by strides, up by transposed convolutions, with shortcuts across."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.first, self.down1 = nn.Conv2d(1, width, 3, 1, 1), nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.down2 = nn.Conv2d(2 * width, 4 * width, 3, 2, 1)
        self.up1 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2)
        self.up2 = nn.ConvTranspose2d(4 * width, width, 4, 2, 1)
        self.last = nn.Conv2d(2 * width, classes, 1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, image: Tensor) -> Tensor:
        a = self.act(self.first(image))
        b = self.act(self.down1(a))
        c = self.act(self.down2(b))
        d = torch.cat([self.act(self.up1(c)), b], 1)
        return self.last(torch.cat([self.act(self.up2(d)), a], 1))


class Experts(nn.Module):
    """Weights of all experts in one tensor; each word goes to one."""

    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.router = nn.Linear(width, experts)
        self.up = nn.Parameter(torch.randn(experts, width, 2 * width) / width**0.5)
        self.down = nn.Parameter(torch.randn(experts, 2 * width, width) / (2 * width) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        share, chosen = self.router(flat).softmax(-1).max(-1)
        out = torch.zeros_like(flat)
        for expert in range(len(self.up)):
            mine = (chosen == expert).nonzero()[:, 0]
            if len(mine):
                found = functional.gelu(flat[mine] @ self.up[expert]) @ self.down[expert]
                out = out.index_add(0, mine, found * share[mine, None])
        return x + out.reshape(x.shape)


class MixtureOfExperts(nn.Module):
    def __init__(self, words: int, width: int, experts: int) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(words, width), nn.RMSNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.experts, self.out = Experts(width, experts), nn.Linear(width, words)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        y = self.norm(x)
        return self.out(self.experts(x + self.attention(y, y, y, need_weights=False)[0]))


class Speech(nn.Module):
    """Long kernels on the samples of a sound."""

    def __init__(self, width: int, kernel: int, classes: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(1, width, kernel, 4), nn.Conv1d(width, 2 * width, kernel, 16)
        self.out = nn.Linear(2 * width, classes)

    def forward(self, sound: Tensor) -> Tensor:
        return self.out(self.second(self.first(sound).relu()).relu().mean(2))


@dataclass(frozen=True)
class Case:
    """A network, a batch and its loss.

    Attributes:
        model: In eval mode.
        batches: Pairs (inputs, target).
        loss: loss(output, target); None is cross-entropy.
    """

    model: nn.Module
    batches: list[tuple[Any, Any]]
    loss: Callable[[Any, Any], Tensor] | None = None


def words_loss(output: Any, labels: Tensor) -> Tensor:
    """Cross-entropy of every word, from logits [n, t, words]."""
    logits = output["logits"] if isinstance(output, dict) else output
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten())


def _texts(samples: int, length: int, words: int, batches: int) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randint(words, (samples, length)), torch.randint(words, (samples, length))) for _ in range(batches)]


def _images(shape: tuple[int, ...], classes: int, batches: int) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(shape), torch.randint(classes, shape[:1])) for _ in range(batches)]


def cases(small: bool = False, batches: int = 8) -> dict[str, Callable[[], Case]]:
    """The networks by name.

    Args:
        small: Some hundred weights each, for tests; else more than 300,000.
        batches: Number of batches.
    """

    def made(model: nn.Module, data: Any, loss: Any = None) -> Case:
        return Case(model.eval(), data, loss)

    s = small
    return {
        "LSTM language model": lambda: made(
            LstmLanguageModel(*(9, 5) if s else (96, 160)),
            _texts(*(4, 5, 9) if s else (32, 48, 96), batches),
            words_loss,
        ),
        "GRU encoder-decoder": lambda: made(
            EncoderDecoder(*(9, 5) if s else (96, 192)),
            [((a, b), b) for a, b in _texts(*(4, 5, 9) if s else (32, 32, 96), batches)],
            words_loss,
        ),
        "GPT, tied embedding": lambda: made(
            Gpt(*(8, 1, 2, 9) if s else (128, 4, 4)), _texts(*(3, 5, 9) if s else (16, 64, 128), batches), _transposed
        ),
        "ViT with class token": lambda: made(
            Vit(*(8, 1, 2, 3) if s else (96, 4, 8, 10)),
            _images((4, 3, 8, 8) if s else (32, 3, 32, 32), 3 if s else 10, batches),
        ),
        "MobileNet with PReLU": lambda: made(
            Depthwise(*(2, 3) if s else (48, 10)),
            _images((4, 3, 8, 8) if s else (32, 3, 32, 32), 3 if s else 10, batches),
        ),
        "U-Net": lambda: made(
            UNet(*(2, 3) if s else (42, 4)),
            [
                (torch.randn(n, 1, k, k), torch.randint(3 if s else 4, (n, k, k)))
                for n, k in [(3, 4) if s else (8, 48)] * batches
            ],
        ),
        "MoE, 3-D experts": lambda: made(
            MixtureOfExperts(*(9, 8, 3) if s else (96, 96, 8)),
            _texts(*(4, 5, 9) if s else (32, 48, 96), batches),
            words_loss,
        ),
        "speech, kernels of 512": lambda: made(
            Speech(*(2, 16, 3) if s else (20, 512, 10)),
            _images((4, 1, 400) if s else (16, 1, 12000), 3 if s else 10, batches),
        ),
    }


def _transposed(output: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits with classes along dimension 1."""
    return functional.cross_entropy(output, labels)
