"""Laws of the coupling within a batch: the best permutation, within labels, the same on any number of ranks."""

from itertools import permutations
from pathlib import Path

import torch
import torch.multiprocessing as mp
from torch import Tensor
from toy_data import gloo_rank

from pipeline.core.noise import Noise
from pipeline.families.transport import best_order, coupled


def pair(count: int, first: int = 0) -> tuple[Tensor, Tensor]:
    noise = Noise(0, torch.arange(first, first + count))
    return noise.normal("noise", 1, 2, 2), 3 * noise.normal("images", 1, 2, 2) + 5


def cost(noise: Tensor, images: Tensor) -> float:
    return float((noise - images).square().sum())


def test_no_permutation_is_better() -> None:
    noise, images = pair(6)
    order = best_order(noise, images, torch.zeros(6, dtype=torch.int64))
    assert sorted(order.tolist()) == list(range(6))
    best = min(permutations(range(6)), key=lambda rows: cost(noise[list(rows)], images))
    assert order.tolist() == list(best) and cost(noise[order], images) < cost(noise, images) - 1
    torch.testing.assert_close(coupled(noise, images, torch.zeros(6, dtype=torch.int64)), noise[order])


def test_noise_stays_with_its_label() -> None:
    """Else a class would have latents of its own, and N(0, I) would not be where its samples come from."""
    noise, images = pair(12)
    labels = torch.tensor([0, 1, 2] * 4)
    order = best_order(noise, images, labels)
    assert torch.equal(labels[order], labels)
    for label in range(3):
        rows = (labels == label).nonzero().flatten()
        alone = rows[best_order(noise[rows], images[rows], torch.zeros(4, dtype=torch.int64))]
        assert torch.equal(order[rows], alone)


def test_two_ranks_couple_as_one_process_does(tmp_path: Path) -> None:
    mp.spawn(_coupled_on, args=(2, str(tmp_path)), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    whole = coupled(*pair(8), torch.arange(8) % 2)
    assert torch.equal(torch.cat(parts), whole)
    apart = torch.cat([coupled(*pair(4, first), torch.arange(4) % 2) for first in (0, 4)])
    assert not torch.equal(whole, apart), "the batches of both ranks matter"


def _coupled_on(rank: int, size: int, folder: str) -> None:
    with gloo_rank(rank, size, folder):
        torch.save(coupled(*pair(4, 4 * rank), torch.arange(4) % 2), f"{folder}/{rank}.pt")
