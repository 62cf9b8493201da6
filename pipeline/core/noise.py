"""Random numbers that belong to a sample, not to a process.

A generator's latents, a penalty's interpolation weights or a flow's dequantization noise are
drawn from a counter-based generator, Philox4x32-10 (Salmon et al., "Parallel random numbers: as
easy as 1, 2, 3", SC 2011): a pure function of (seed, stream, sample, name of the draw). So sample
i gets the same numbers in any batch size, on any rank of any world, and after a resume; there is
no generator state to store or to lose.
"""

import math
import zlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Turn four words of 32 bits (int64 tensors that broadcast) into four random ones, under a key of two words."""
    words = torch.stack(torch.broadcast_tensors(*counter))
    even, odd = words[0::2], words[1::2]  # (x0, x2) and (x1, x3): few operations on pairs, not many on words
    column = (2,) + (1,) * (words.ndim - 1)
    multipliers = torch.tensor(_MULTIPLIERS, device=words.device).view(column)
    keys = torch.tensor(_round_keys(*key), device=words.device).view(_ROUNDS, *column)
    for round_key in keys:
        # A product of two 32-bit words wraps int64 but keeps all its 64 bits. What stands above 32 bits in
        # the shifted and in the low halves is cut off where it would matter: before the next product.
        products = (even * multipliers).flip(0)
        even, odd = ((products >> 32) ^ odd ^ round_key) & _MASK, products
    return even[0], odd[0] & _MASK, even[1], odd[1] & _MASK


def philox_on_cpu(ids: NDArray[np.int64], blocks: int, draw: int, key: tuple[int, int]) -> NDArray[np.uint32]:
    """Return what ``philox`` gives for counters (id, id >> 32, block, draw), in a fraction of the operations.

    Args:
        ids: (n,), of any integers.
        blocks: of four words, for each id.
        draw: the last word of all counters.
        key: two words.

    Returns:
        (n, 4 * blocks), the words of a block beside each other.
    """
    words = np.empty((2, 2, len(ids), blocks), dtype=np.uint32)  # even words (x0, x2), then odd ones (x1, x3)
    halves = ids.astype("<i8").view("<u4").reshape(-1, 2)
    words[0, 0], words[1, 0] = halves[:, :1], halves[:, 1:]
    words[0, 1], words[1, 1] = np.arange(blocks, dtype=np.uint32), draw
    even, odd = words
    multipliers = np.array(_MULTIPLIERS, dtype=np.uint64)[:, None, None]
    for one, other in _round_keys(*key):
        product = np.multiply(even, multipliers, dtype="<u8").view("<u4")[::-1]  # low and high halves in turn
        even = product[..., 1::2] ^ odd
        even[0] ^= np.uint32(one)
        even[1] ^= np.uint32(other)
        odd = product[..., 0::2]
    return np.stack((even[0], odd[0], even[1], odd[1]), axis=-1).reshape(len(ids), -1)


def _round_keys(k0: int, k1: int) -> list[tuple[int, int]]:
    return [((k0 + i * _WEYL[0]) & _MASK, (k1 + i * _WEYL[1]) & _MASK) for i in range(_ROUNDS)]


@dataclass(frozen=True)
class Noise:
    """The random numbers of n samples.

    Attributes:
        seed: of all draws.
        ids: (n,) int64, the samples' numbers; draws are made on its device.
        name: of the stream.
        truncation: normal numbers lie within this many standard deviations (the truncation trick of Brock et al.,
            arXiv:1809.11096, section 3.1); None: no bound. Set for sampling, never for training.
    """

    seed: int
    ids: Tensor
    name: str = ""
    truncation: float | None = None

    def stream(self, name: str) -> "Noise":
        """Return independent random numbers for the same samples."""
        return replace(self, name=f"{self.name}/{name}")

    def uniform(self, name: str, *shape: int) -> Tensor:
        """Draw (n, *shape) float32 in [0, 1)."""
        # 24 bits: what a float32 holds without rounding up to 1.
        return (self._bits(name, shape) >> 8).to(torch.float32) * 2.0**-24

    def normal(self, name: str, *shape: int) -> Tensor:
        """Draw (n, *shape) float32, standard normal (Box-Muller, pairs of words) or truncated (inverse transform)."""
        if self.truncation is not None:
            below = 0.5 * math.erfc(self.truncation / math.sqrt(2.0))  # the normal's mass below -truncation
            inside = below + (self.uniform(name, *shape) + 2.0**-25) * (1.0 - 2.0 * below)
            return torch.special.ndtri(inside).clamp(-self.truncation, self.truncation)
        count = math.prod(shape)
        half = (count + 1) // 2
        bits = self._bits(name, (2 * half,))
        radius = ((bits[:, :half].to(torch.float32) + 0.5) * 2.0**-32).log_().mul_(-2.0).sqrt_()
        angle = bits[:, half:].to(torch.float32) * (2.0 * math.pi * 2.0**-32)
        pairs = torch.cat((radius * angle.cos(), radius * angle.sin()), dim=1)
        return pairs[:, :count].reshape(-1, *shape)

    def integers(self, name: str, high: int, *shape: int) -> Tensor:
        """Draw (n, *shape) int64 in [0, high); the bias of the scaling is below high / 2**32."""
        return (self._bits(name, shape) * high) >> 32

    def _bits(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """(n, *shape) int64 in [0, 2**32)."""
        count = math.prod(shape)
        blocks, number = (count + 3) // 4, zlib.crc32(f"{self.name}/{name}".encode())
        key = (self.seed & _MASK, (self.seed >> 32) & _MASK)
        if self.ids.device.type == "cpu" and type(self.ids) is Tensor:  # and no stand-in of an export
            found = philox_on_cpu(self.ids.numpy(), blocks, number, key)
            return torch.from_numpy(found[:, :count].astype(np.int64)).reshape(-1, *shape)
        ids = self.ids[:, None]
        block = torch.arange(blocks, device=ids.device)[None, :]
        counter = (ids & _MASK, (ids >> 32) & _MASK, block, torch.full_like(block, number))
        return torch.stack(philox(counter, key), dim=-1).flatten(1)[:, :count].reshape(-1, *shape)
