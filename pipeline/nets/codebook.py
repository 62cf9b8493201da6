"""A codebook that follows the vectors assigned to it (van den Oord et al., arXiv:1711.00937, appendix A.1).

Legend: n samples, d dimensions of a code's vector, g x g grid of codes per image, k codes, m = n g g vectors.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from pipeline.core.noise import Noise
from pipeline.core.precision import without_autocast


class Codebook(nn.Module):
    """Vectors (k, d) that move by averages and not by gradients: it has buffers and no parameters.

        N <- decay N + (1 - decay) share,  M <- decay M + (1 - decay) sum,  vector = M / N

    with each code's share of the batch's vectors and the sum of those vectors over their number. Only
    ``usage`` (N) and ``vectors`` are kept, since M = N vectors. A code whose N falls below ``revival`` / k is
    dead: it is drawn from the batch's vectors again. N begins at 0, so the first step draws all of them.
    """

    def __init__(self, *, codes: int, dim: int, decay: float = 0.99, revival: float = 0.1) -> None:
        super().__init__()
        self.decay, self.least = decay, revival / codes
        self.register_buffer("vectors", torch.randn(codes, dim))
        self.register_buffer("usage", torch.zeros(codes))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.observed: tuple[Tensor, Tensor] | None = None

    vectors: Tensor
    usage: Tensor
    steps: Tensor

    def forward(self, codes: Tensor) -> Tensor:
        """Look up the codes' vectors: (n, g, g) int64 -> (n, d, g, g)."""
        return self.vectors[codes].movedim(-1, 1)

    def nearest(self, features: Tensor) -> Tensor:
        """Find the code at the smallest Euclidean distance: (n, d, g, g) -> (n, g, g) int64; always in float32."""
        with torch.no_grad(), without_autocast(features.device):
            rows = features.movedim(1, -1).float()
            distances = self.vectors.square().sum(1) - 2.0 * rows @ self.vectors.T  # less |row|^2, which all share
            return distances.argmin(-1)

    def prior(self) -> Tensor:
        """Return the logarithms of how often each code is used, (k,); equal before the first step."""
        usage = self.usage + 1e-6 / len(self.usage)
        return (usage / usage.sum()).log()

    def in_use(self) -> Tensor:
        """Return the perplexity of the codes' use, in 1 .. k: how many equally used codes would be as uncertain."""
        log_share = self.prior()
        return (-(log_share.exp() * log_share).sum()).exp()

    def observe(self, features: Tensor, codes: Tensor) -> None:
        """Remember a batch, (n, d, g, g) and (n, g, g), for the update after the step."""
        self.observed = (features.detach().movedim(1, -1).flatten(0, 2).float(), codes.flatten())

    def statistics(self, rank: int, size: int) -> list[Tensor]:
        """Return what the update needs of the observed batch; its mean over the ranks is the global batch's.

        Args:
            rank: of this process.
            size: how many processes there are.

        Returns:
            Shares (k,), sums (k, d), and for each code a vector of the batch that may replace it (k, d).

        Raises:
            RuntimeError: no batch was observed since the last call.
        """
        if self.observed is None:
            raise RuntimeError("codebook: there is no batch to learn from; call observe() in the loss")
        rows, codes = self.observed
        self.observed = None
        assigned = one_hot(codes, len(self.usage)).to(rows.dtype)
        shares, sums = assigned.mean(0), assigned.T @ rows / len(rows)
        return [shares, sums, self._candidates(rows, rank, size)]

    def _candidates(self, rows: Tensor, rank: int, size: int) -> Tensor:
        # The ranks' rows one after another are the global batch: each rank adds those that are its own.
        ids = self.steps * len(self.usage) + torch.arange(len(self.usage), device=rows.device)
        chosen = Noise(0, ids).integers("revival", size * len(rows)) - rank * len(rows)
        own = (chosen >= 0) & (chosen < len(rows))
        return torch.where(own[:, None], size * rows[chosen.clamp(0, len(rows) - 1)], 0.0)

    def update(self, shares: Tensor, sums: Tensor, candidates: Tensor) -> None:
        """Move the averages by one step, in place; then the dead codes take their candidates."""
        self.steps += 1
        self.usage.lerp_(shares, 1.0 - self.decay)
        weight = (1.0 - self.decay) / self.usage.clamp_min(torch.finfo(self.usage.dtype).tiny)
        self.vectors += weight[:, None] * (sums - shares[:, None] * self.vectors)
        dead = self.usage < self.least
        self.vectors.copy_(torch.where(dead[:, None], candidates, self.vectors))
        self.usage.masked_fill_(dead, 2.0 * self.least)  # so little that it moves fast, and is soon dead if not used


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw codes from their log-probabilities by inverse transform: (..., k), (...) in [0, 1) -> (...) int64."""
    edges = logits.float().softmax(-1).cumsum(-1)
    # The last edge may lie below 1 by rounding; what is above it is the last code.
    return (edges[..., :-1] <= uniform[..., None]).sum(-1)
