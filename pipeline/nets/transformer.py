"""A decoder-only Transformer over a sequence of codes (Vaswani et al., arXiv:1706.03762; layer norm first, GELU and
initialisation as in Radford et al., "Language models are unsupervised multitask learners", 2019).

Legend: n samples, t codes per sequence, k possible codes, w width, h heads.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, scaled_dot_product_attention

from pipeline.nets.codebook import draw

Cache = tuple[Tensor, Tensor]  # keys and values so far, (n, h, positions, w / h) each


class Transformer(nn.Module):
    """(n, t) codes, (n,) labels -> (n, t, k) logits; those at position i depend on the label and on codes before i.

    The sequence begins with the label's embedding, where there are classes, and with one vector where there are none.
    """

    def __init__(self, *, codes: int, length: int, classes: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.classes, self.length = classes, length
        self.begin = nn.Embedding(max(classes, 1), width)
        self.code = nn.Embedding(codes, width)
        self.position = nn.Parameter(torch.empty(length, width))
        self.blocks = nn.ModuleList(Block(width, heads, layers) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, codes, bias=False)
        nn.init.normal_(self.position, 0.0, 0.02)
        for module in (self.begin, self.code, self.head):
            nn.init.normal_(module.weight, 0.0, 0.02)

    def forward(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        """Predict all positions at once (teacher forcing)."""
        before = torch.cat((self._first(codes, labels), self.code(codes[:, :-1])), dim=1)
        tokens = before + self.position[: codes.shape[1]]
        for block in self.blocks:
            tokens, _ = block(tokens)
        logits: Tensor = self.head(self.norm(tokens))
        return logits

    def generate(self, uniform: Tensor, labels: Tensor | None = None) -> Tensor:
        """Draw codes one after another, by inverse transform of numbers in [0, 1): (n, t) -> (n, t)."""
        caches: list[Cache | None] = [None] * len(self.blocks)
        token, codes = self._first(uniform, labels), []
        for position in range(uniform.shape[1]):
            token = token + self.position[position]
            for number, block in enumerate(self.blocks):
                token, caches[number] = block(token, caches[number])
            codes.append(draw(self.head(self.norm(token)), uniform[:, position, None]))
            token = self.code(codes[-1])
        return torch.cat(codes, dim=1)

    def _first(self, like: Tensor, labels: Tensor | None) -> Tensor:
        """(n, 1, w)."""
        if not self.classes:
            return self.begin.weight.expand(like.shape[0], 1, -1)
        if labels is None:
            raise ValueError("a class-conditional Transformer needs labels")
        return embedding(labels, self.begin.weight)[:, None]


class Block(nn.Module):
    """(n, t, w) -> the same: causal self-attention and a two-layer perceptron, each added to its input."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        # The sum of all layers' branches begins with the variance of one.
        last = 0.02 / (2 * layers) ** 0.5
        self.attend, self.project = _linear(width, 3 * width), _linear(width, width, last)
        self.mlp = nn.Sequential(_linear(width, 4 * width), nn.GELU(), _linear(4 * width, width, last))

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache]:
        """Return the tokens and the cache; given a cache, there is one token, which comes after those in it."""
        split = self.attend(self.norms[0](tokens)).unflatten(-1, (3, self.heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)  # (n, h, t, w / h) each
        if cache is not None:
            key, value = (torch.cat(pair, dim=2) for pair in zip(cache, (key, value), strict=True))
        mixed = scaled_dot_product_attention(query, key, value, is_causal=cache is None)
        tokens = tokens + self.project(mixed.transpose(1, 2).flatten(2))
        return tokens + self.mlp(self.norms[1](tokens)), (key, value)


def _linear(inputs: int, outputs: int, deviation: float = 0.02) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, 0.0, deviation)
    nn.init.zeros_(layer.bias)
    return layer
