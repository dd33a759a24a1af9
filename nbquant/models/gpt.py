"""A small GPT-style language model: causal self-attention, tied input and output embeddings."""

from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from nbquant.models.python_docs import VOCABULARY, WINDOW


class Layer(nn.Module):
    """Causal self-attention, then two linear layers, each with a residual connection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "n t width"]) -> Float[Tensor, "n t width"]:
        """Add attention and feed-forward outputs to the input."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Gpt(nn.Module):
    """Four layers of width 128 over windows of 128 characters; 826,112 parameters.

    The character embedding is also the output matrix, and positions are a parameter of the model itself.

    Source: Radford et al. 2019 (GPT-2), without dropout.
    """

    def __init__(self, width: int = 128, layers: int = 4, heads: int = 4, vocabulary: int = VOCABULARY) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(0.02 * self.embedding.weight.new_ones(WINDOW, width).normal_())
        self.layers = nn.Sequential(*(Layer(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.head.weight = self.embedding.weight

    def forward(self, text: Int64[Tensor, "n t"]) -> Float[Tensor, "n vocabulary t"]:
        """Compute logits of each next character; classes along the second dimension, as for cross-entropy."""
        x = self.embedding(text) + self.position[: text.shape[1]]
        return self.head(self.norm(self.layers(x))).transpose(1, 2)
