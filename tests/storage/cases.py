"""Small models and files for the tests of storage."""

import json
import struct
import zlib
from hashlib import blake2b

import torch
from torch import Tensor, nn

import nbquant as nq
from nbquant.quantization.quantized import Quantized

MAGIC = b"\x89nbq\r\n\x1a\n"


class Tied(nn.Module):
    """Tied weights, quantized and not, buffers that are stored and one that is not, and other types."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embed = nn.Embedding(6, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 6)
        self.scale = nn.Parameter(torch.tensor(0.5))
        with torch.no_grad():
            self.embed.weight.copy_(torch.randn(6, 4, generator=generator))
            self.head.bias.copy_(torch.randn(6, generator=generator))
        self.head.weight = self.embed.weight
        self.again = self.scale
        self.to(dtype)
        self.register_buffer("mask", torch.tensor([True, False, True]))
        self.register_buffer("mask_again", self.mask)
        self.register_buffer("cache", torch.zeros(7), persistent=False)
        self.register_buffer("scales", torch.tensor([0.5, 2.0]).to(torch.float8_e4m3fn))


def laplace(n: int, seed: int = 0, scale: float = 0.1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(n, generator=generator, dtype=torch.float64) - 0.5
    return (-scale * u.sign() * torch.log1p(-2 * u.abs().clamp(max=0.4999))).float()


def network(keep: float = 1.0, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Sequential:
    """Two layers whose weights, but not biases, are pruned to a fraction."""
    model = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 5))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(laplace(p.numel(), seed + i).reshape(p.shape))
            if p.ndim > 1 and keep < 1:
                p.mul_(torch.rand(p.shape, generator=generator) < keep)
    return model.to(dtype)


def same(a: Tensor, b: Tensor) -> bool:
    """Bit for bit, with type and shape."""
    if a.dtype != b.dtype or a.shape != b.shape or not a.numel():
        return a.dtype == b.dtype and a.shape == b.shape
    return torch.equal(*(x.detach().resolve_conj().contiguous().reshape(-1).view(torch.uint8) for x in (a, b)))


def all_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)


def expected_state(model: nn.Module, quantized: Quantized) -> dict[str, Tensor]:
    """The model's state with quantized weights, under all their names."""
    state = model.state_dict(keep_vars=True)
    restored = quantized.dequantize()
    of = {id(state[name]): tensor for name, tensor in restored.items()}
    return {name: of.get(id(value), value.detach()) for name, value in state.items()}


def parts(data: bytes) -> tuple[dict, bytes]:
    """The header and the sections of a file, which are not checked."""
    length = int.from_bytes(data[12:16], "little")
    return json.loads(data[16 : 16 + length]), data[20 + length : -16]


def assembled(header: dict | bytes, sections: bytes, major: int = 1, minor: int = 0) -> bytes:
    """A file of these with checksums of header and whole that are right."""
    raw = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    head = MAGIC + struct.pack("<HHI", major, minor, len(raw)) + raw
    data = head + struct.pack("<I", zlib.crc32(head)) + sections
    return data + blake2b(data, digest_size=16).digest()


def section(content: bytes) -> bytes:
    return content + struct.pack("<I", zlib.crc32(content))


def quantize(model: nn.Module, **settings) -> Quantized:
    method = settings.pop("method", "ecsq")
    return nq.fit(nq.select(model), method, progress=False, **(settings or {"ratio": 6}))
