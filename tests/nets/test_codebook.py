"""Laws of the codebook: nearest codes, moving averages, revival, and one codebook on all ranks."""

from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from small_codebooks import codebook, features
from torch import Tensor, nn
from toy_data import gloo_rank

from pipeline.core.method import Nets
from pipeline.core.noise import Noise
from pipeline.core.world import World
from pipeline.families.vq import move_codebook
from pipeline.nets.codebook import Codebook, draw


def nets_of(book: Codebook) -> Nets:
    return nn.ModuleDict({"codebook": book})


def step(book: Codebook, vectors: Tensor, world: World | None = None) -> Tensor:
    """One update on the vectors; returns their codes."""
    codes = book.nearest(vectors)
    book.observe(vectors, codes)
    move_codebook(nets_of(book), world or World())
    return codes


@pytest.mark.parametrize("bf16", [False, True])
def test_the_nearest_code_is_exact_under_autocast_too(bf16: bool) -> None:
    vectors, book = features(32), codebook(64)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        codes = book.nearest(vectors)
        quantized = book(codes)
    rows = vectors.movedim(1, -1).double()
    distances = (rows[..., None, :] - book.vectors.double()).norm(dim=-1)
    chosen = distances.gather(-1, codes[..., None])[..., 0]
    torch.testing.assert_close(chosen, distances.amin(-1), rtol=0, atol=1e-6)
    assert quantized.dtype == torch.float32
    assert torch.equal(quantized.movedim(1, -1), book.vectors[codes])


def test_the_update_is_the_papers_ratio_of_moving_averages() -> None:
    book = codebook(decay=0.9, revival=0.0)
    usage, sums = book.usage.double(), book.usage.double()[:, None] * book.vectors.double()
    for seed in range(5):
        vectors = features(seed=seed)
        codes = step(book, vectors).flatten()
        rows = vectors.movedim(1, -1).flatten(0, 2).double()
        assigned = torch.stack([(codes == k).double() for k in range(16)])
        usage = 0.9 * usage + 0.1 * assigned.mean(1)
        sums = 0.9 * sums + 0.1 * (assigned @ rows) / len(rows)
        torch.testing.assert_close(book.usage.double(), usage, rtol=1e-5, atol=0)
        torch.testing.assert_close(book.vectors.double(), sums / usage[:, None], rtol=1e-4, atol=1e-6)
    assert book.steps == 5


def test_a_batch_twice_moves_the_codebook_as_once() -> None:
    once, twice = codebook(revival=0.0), codebook(revival=0.0)
    step(once, features())
    step(twice, features().repeat(2, 1, 1, 1))
    torch.testing.assert_close(once.vectors, twice.vectors, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(once.usage, twice.usage, rtol=1e-6, atol=0)


def test_a_dead_code_becomes_a_vector_of_the_batch_and_others_stay() -> None:
    dead, alive = codebook(revival=0.5), codebook(revival=0.0)
    for book in (dead, alive):
        book.vectors[3] = 100.0
        book.usage[3] = 0.4 / 16
        step(book, features())
    rows = features().movedim(1, -1).flatten(0, 2)
    assert (dead.vectors[3] - rows).abs().amax(1).min() == 0
    assert torch.equal(alive.vectors[3], torch.full((5,), 100.0))
    assert 0.5 / 16 < dead.usage[3] < 1.5 / 16  # not dead again at once
    others = [k for k in range(16) if k != 3]
    assert torch.equal(dead.vectors[others], alive.vectors[others])
    assert (step(dead, features()) == 3).any()


def test_the_first_step_draws_every_code_from_the_data() -> None:
    book = Codebook(codes=16, dim=5)
    vectors = features() + 50.0  # far from where the codes are
    step(book, vectors)
    rows = vectors.movedim(1, -1).flatten(0, 2)
    near = (book.vectors[:, None] - rows).abs().amax(-1).amin(1)
    assert (near == 0).sum() >= 15  # all but the code that was nearest to everything
    assert len(book.vectors.unique(dim=0)) >= 12


def test_a_codebook_settles_on_the_clusters_of_its_data() -> None:
    centres = 5 * torch.eye(8)
    book = Codebook(codes=32, dim=8, decay=0.9)
    for seed in range(40):
        noise = Noise(seed, torch.arange(16))
        vectors = centres[noise.integers("cluster", 8, 4, 4)] + 0.1 * noise.normal("spread", 4, 4, 8)
        vectors = vectors.movedim(-1, 1)
        codes = step(book, vectors)
    assert torch.cdist(centres, book.vectors).amin(1).max() < 0.2
    error = (vectors - book(codes)).square().sum(1).mean()
    assert 0.03 < error < 0.1  # with one code per cluster 8 * 0.1^2
    assert 16 < book.in_use() < 32


def test_ranks_share_one_codebook_without_processes() -> None:
    """The mean of the ranks' statistics is that of the global batch, the vectors for dead codes included."""
    whole = codebook()
    whole.observe(features(8), whole.nearest(features(8)))
    expected = whole.statistics(0, 1)
    parts = []
    for rank in range(4):
        part = codebook()
        own = features(2, first=2 * rank)
        part.observe(own, part.nearest(own))
        parts.append(part.statistics(rank, 4))
    for number, tensor in enumerate(expected):
        mean = torch.stack([part[number] for part in parts]).mean(0)
        torch.testing.assert_close(mean, tensor, rtol=1e-5, atol=1e-7)


def test_two_gloo_ranks_move_the_codebook_as_one_process(tmp_path: Path) -> None:
    mp.spawn(_rank, args=(2, str(tmp_path)), nprocs=2)
    alone = _trained_codebook(World())
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for key, value in alone.items():
        assert torch.equal(ranks[0][key], ranks[1][key]), key
        torch.testing.assert_close(ranks[0][key], value, rtol=1e-5, atol=1e-6, msg=key)


def _trained_codebook(world: World) -> dict[str, Tensor]:
    """From its first step on, through revivals."""
    torch.manual_seed(0)
    book, share = Codebook(codes=32, dim=5, decay=0.5, revival=0.5), 8 // world.size
    for seed in range(6):
        step(book, features(share, seed=seed, first=world.rank * share), world)
    return book.state_dict()


def _rank(rank: int, size: int, folder: str) -> None:
    with gloo_rank(rank, size, folder) as world:
        torch.save(_trained_codebook(world), f"{folder}/{rank}.pt")


def test_an_update_without_a_batch_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="observe"):
        move_codebook(nets_of(codebook()), World())


def test_codes_are_drawn_by_inverse_transform() -> None:
    logits = torch.tensor([0.2, 0.0, 0.5, 0.3]).log()
    uniform = torch.tensor([0.0, 0.1999, 0.2001, 0.6999, 0.7001, 1 - 2**-24])
    assert draw(logits, uniform).tolist() == [0, 0, 2, 2, 3, 3]
    many = draw(logits, Noise(0, torch.arange(20_000)).uniform("u"))
    shares = torch.bincount(many, minlength=4) / len(many)
    torch.testing.assert_close(shares, logits.exp(), rtol=0, atol=0.015)
    assert shares[1] == 0
    short = torch.full((1000,), 1e-3).log()  # the edges' rounding leaves no code out
    assert draw(short, torch.tensor(1 - 2**-24)) == 999
