"""Laws of the random numbers: known answers, right distributions, and a sample's own in any batch."""

import pytest
import torch
from scipy import stats

from pipeline.core.noise import Noise, philox, philox_on_cpu

# The Random123 distribution's known answers for philox4x32 with 10 rounds: counter, key, result.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_philox_gives_the_known_answers(counter: str, key: str, answer: str) -> None:
    c0, c1, c2, c3 = (torch.tensor([word]) for word in words(counter))
    k0, k1 = words(key)
    assert [int(word) for word in philox((c0, c1, c2, c3), (k0, k1))] == words(answer)


@pytest.mark.parametrize("key", [(0, 0), (0xFFFFFFFF, 0xFFFFFFFF), (0xA4093822, 0x299F31D0)])
@pytest.mark.parametrize("blocks", [1, 5])
def test_processors_and_other_devices_have_the_same_words(blocks: int, key: tuple[int, int]) -> None:
    ids = torch.tensor([0, 1, 2**32 - 1, 2**32, 2**40 + 7, -1])
    draw = 0xFEDCBA98
    low, high = ids[:, None] & 0xFFFFFFFF, (ids[:, None] >> 32) & 0xFFFFFFFF
    block = torch.arange(blocks)[None]
    words = torch.stack(philox((low, high, block, torch.full_like(block, draw)), key), dim=-1).flatten(1)
    assert words.tolist() == philox_on_cpu(ids.numpy(), blocks, draw, key).tolist()


def test_a_samples_numbers_do_not_depend_on_its_batch() -> None:
    whole = Noise(3, torch.arange(100))
    part = Noise(3, torch.tensor([70, 5]))
    for draw in ("normal", "uniform"):
        torch.testing.assert_close(
            getattr(part, draw)("x", 3, 5), getattr(whole, draw)("x", 3, 5)[[70, 5]], rtol=0, atol=1e-6
        )
    assert torch.equal(part.integers("x", 10, 4), whole.integers("x", 10, 4)[[70, 5]])


def test_seed_stream_name_and_sample_each_give_other_numbers() -> None:
    base = Noise(0, torch.arange(4)).normal("x", 8)
    others = [
        Noise(1, torch.arange(4)).normal("x", 8),
        Noise(0, torch.arange(4)).stream("critic").normal("x", 8),
        Noise(0, torch.arange(4)).normal("y", 8),
        Noise(0, torch.arange(4, 8)).normal("x", 8),
        Noise(0, torch.arange(4) + 2**32).normal("x", 8),
    ]
    assert len(base.unique()) == base.numel()
    for other in others:
        assert not torch.isclose(base, other).any()


def test_distributions() -> None:
    noise = Noise(7, torch.arange(5000))
    assert stats.kstest(noise.normal("x", 9).flatten().numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(noise.uniform("x", 9).flatten().numpy(), "uniform").pvalue > 1e-3
    assert stats.chisquare(noise.integers("x", 10, 9).flatten().bincount().numpy()).pvalue > 1e-3
    normal = noise.normal("x", 6)
    correlation = torch.corrcoef(normal.T) - torch.eye(6)
    assert correlation.abs().max() < 0.07  # five standard errors of 1 / sqrt(5000)


def test_uniform_stays_below_one() -> None:
    values = Noise(0, torch.arange(200_000)).uniform("x", 5)
    assert 0 <= values.min() < 1e-4 and 1 - 1e-4 < values.max() < 1


def test_truncated_normal_numbers_stay_within_and_have_the_truncated_moments() -> None:
    noise = Noise(0, torch.arange(20_000), truncation=0.7)
    found = noise.normal("z", 4).double()
    assert found.abs().max() <= 0.7 and found.abs().max() > 0.69
    bound = torch.tensor(0.7, dtype=torch.float64)
    density = torch.exp(-bound.square() / 2) / (2 * torch.pi) ** 0.5
    variance = 1 - 2 * bound * density / torch.erf(bound / 2**0.5)
    assert abs(float(found.mean())) < 0.005
    assert abs(float(found.var() - variance)) < 0.003
    free = Noise(0, torch.arange(20_000)).normal("z", 4)
    wide = Noise(0, torch.arange(20_000), truncation=9.0).normal("z", 4)
    assert abs(float(wide.var()) - 1) < 0.02 and free.abs().max() > 3.5
