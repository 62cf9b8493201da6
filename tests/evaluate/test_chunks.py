"""An examination is the same, to the bit, however its chunks are dealt out; its counts are exact."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from examinations import contents, materials
from samplers import Copying, Overflowing, Unscored, trained
from torch import Tensor
from toy_data import toy_split

from pipeline.core.batch import Batch, ImageSpec
from pipeline.core.method import Method, Nets
from pipeline.data.dataset import Dataset
from pipeline.evaluate.chunks import Chunk, Examiner, Materials, Part, Subject
from pipeline.evaluate.extraction import generate, make_reference, write_samples
from pipeline.evaluate.extractor import Extractor
from pipeline.evaluate.feature_set import read_protocol, read_set
from pipeline.evaluate.found import Found

CPU = torch.device("cpu")


def seeing() -> Extractor:
    """Gray levels of 16 pixels; as logits, of two."""

    def network(images: Tensor) -> tuple[Tensor, Tensor]:
        pixels = images[:, 0, ::4, ::4].flatten(1).float()
        return pixels, pixels[:, :2]

    return Extractor(name="seeing", weights_sha256="", resize="", network=network, device=CPU)


def by_several(workers: int, seed: int, materials: Materials, chunks: Sequence[Chunk]) -> Iterator[Part]:
    """Each worker loads everything for itself; chunks go to them at random, and come back in a random order."""
    chance, found = random.Random(seed), dict[int, Part]()
    examiners = [materials.examiner(CPU) for _ in range(workers)]
    for number in chance.sample(range(len(chunks)), len(chunks)):
        found[number] = chance.choice(examiners).examine(chunks[number])
    yield from (found[number] for number in range(len(chunks)))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Materials:
    """7 samples, seen 2 at a time: the last chunk has one."""
    return materials(tmp_path_factory.mktemp("toy"), samples=7, batch_size=2, reference_samples=25)


@pytest.mark.parametrize("write", [generate, make_reference])
def test_who_examines_which_chunk_changes_no_bit(toy: Materials, tmp_path: Path, write: Callable[..., None]) -> None:
    files = toy if write is generate else replace(toy, weights=None)
    (here := tmp_path / "here").mkdir()
    write(here, files)
    assert len(read_set(here, "seen", "x")) == (7 if write is generate else 25)
    for workers in (1, 3, 4):
        (folder := tmp_path / str(workers)).mkdir()
        write(folder, files, partial(by_several, workers, workers))
        assert contents(folder) == contents(here)


def test_own_scores_are_those_of_one_pass_over_the_test_images(toy: Materials, tmp_path: Path) -> None:
    generate(tmp_path, toy, partial(by_several, 3, 0))
    (name,) = (values := json.loads((tmp_path / "scores.json").read_text())["values"])
    examiner = toy.examiner(CPU)
    assert examiner.trained
    split, rows = examiner.subject.beside.splits["test"], examiner.subject.scored_rows  # type: ignore[union-attr]
    assert len(rows) == 7
    from pipeline.inference.generate import batches

    whole = next(batches(split, rows, seed=0, batch_size=7, device="cpu"))
    with torch.inference_mode():
        scores = examiner.trained.method.scores(examiner.trained.nets, whole)[name]
    assert values[name] == pytest.approx(float(scores.double().mean()), rel=1e-5)


def dataset(count: int = 48) -> Dataset:
    spec = ImageSpec(channels=1, size=16, classes=10)
    return Dataset(spec=spec, info={"digest": "d"}, splits={"train": toy_split(count), "test": toy_split(10)})


def examined(method: Method, toy: Materials, **settings: int) -> Found:
    data = dataset()
    subject = Subject(settings=replace(toy.settings, **settings), beside=data)  # type: ignore[arg-type]
    examiner = Examiner(subject=subject, extractors=[seeing()], trained=trained(method, data.spec))
    return Found.of(map(examiner.examine, subject.chunks()))


@pytest.mark.parametrize(("samples", "size"), [(10, 10), (11, 10), (7, 2), (30, 64), (64, 1)])
def test_chunks_cover_every_image_once(toy: Materials, samples: int, size: int) -> None:
    settings = replace(toy.settings, samples=samples, batch_size=size, reference_samples=None)
    data = dataset()
    chunks = Subject(settings=settings, beside=data, real=data).chunks()
    for kind, count in (("samples", samples), ("real", 48), ("scores", min(samples, 10)), ("labels", min(samples, 8))):
        own = [chunk for chunk in chunks if chunk.kind == kind]
        assert [number for chunk in own for number in range(chunk.first, chunk.last)] == list(range(count))
        assert all(0 < len(chunk) <= (8 if kind == "labels" else size) for chunk in own)
    assert chunks[0].kind == "samples"


def test_samples_that_are_not_finite_are_judged_by_their_share_of_all(toy: Materials) -> None:
    """Not by their share of a chunk, in which one of two may be."""
    found = examined(Overflowing(share=0.04), toy, samples=200)
    assert 2 <= found.tally.redrawn <= 20 and found.tally.samples == 200 and found.tally.too_many is None
    assert found.features("samples")["seeing"].pooled.shape == (200, 16)
    several = examined(Overflowing(share=0.04), toy, samples=200, batch_size=17)
    assert several.tally == found.tally
    many = examined(Overflowing(share=0.3), toy, samples=200)
    assert many.tally.too_many == f"{many.tally.redrawn} of 200 samples" and not many.scores


def test_what_is_refused_is_not_waited_for(toy: Materials) -> None:
    data, asked = dataset(), list[Chunk]()
    subject = Subject(settings=toy.settings, beside=data)
    broken = trained(Overflowing(share=1.0), data.spec)
    examiner = Examiner(subject=subject, extractors=[seeing()], trained=broken)
    found = Found.of(examiner.examine(chunk) for chunk in subject.chunks() if not asked.append(chunk))  # type: ignore[func-returns-value]
    assert found.spoilt == {"samples": "2 of 2 samples, in each of 10 draws,"} and len(asked) == 1
    scores = examined(Unscored(), toy)
    assert scores.spoilt == {"scores": "the scores 'mean_pixel' of some test images"} and not scores.scores
    assert scores.tally.samples == 7


def test_a_refusal_is_diagnosed_by_whoever_has_the_runs_folder(toy: Materials, tmp_path: Path) -> None:
    def refusing(materials: Materials, chunks: Sequence[Chunk]) -> Iterator[Part]:
        yield Part(chunk=chunks[0], about=materials.examiner(CPU).about, spoilt="2 of 2 samples")

    generate(tmp_path, toy, refusing)
    refused = read_protocol(tmp_path, "x")["refused"]
    assert refused.startswith(f"{toy.weights}: 2 of 2 samples are not finite, though the training did not diverge")
    assert [file.name for file in tmp_path.iterdir()] == ["protocol.json"]


def test_a_gpu_without_room_takes_fewer_at_once(toy: Materials, caplog: pytest.LogCaptureFixture) -> None:
    taken: list[int] = []

    @dataclass(frozen=True, kw_only=True)
    class Large(Copying):
        def sample(self, nets: Nets, like: Batch) -> Tensor:
            taken.append(len(like))
            if len(like) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().sample(nets, like)

    data = dataset()
    subject = Subject(settings=replace(toy.settings, samples=10, batch_size=10), beside=data)
    chunk = subject.chunks()[0]
    examiner = Examiner(subject=subject, extractors=[seeing()], trained=trained(Large(), data.spec))
    found = examiner.examine(chunk).features["seeing"].pooled
    assert taken == [10, 5, 3, 3, 3, 1] and "3 at a time" in caplog.text
    sound = replace(examiner, trained=trained(Copying(), data.spec)).examine(chunk).features["seeing"].pooled
    assert torch.equal(found, sound)


def test_a_folder_written_from_memory_is_that_written_from_files(toy: Materials, tmp_path: Path) -> None:
    (files := tmp_path / "files").mkdir()
    (memory := tmp_path / "memory").mkdir()
    generate(files, toy)
    examiner = toy.examiner(CPU)
    assert examiner.trained and examiner.subject.beside
    write_samples(memory, examiner.trained, examiner.subject.beside, toy.settings, examiner.extractors)
    assert contents(memory) == contents(files)
