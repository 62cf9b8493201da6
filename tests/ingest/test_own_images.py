"""A person's own images: found in a stated order, named, normalized as in training, refused in clear words."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.core.batch import ImageSpec
from pipeline.errors import UserError
from pipeline.ingest.normalize import to_square
from pipeline.ingest.own_images import open_images

SPEC = ImageSpec(channels=3, size=8)


def picture(shade: int, size: tuple[int, int] = (20, 12)) -> Image.Image:
    noise = np.random.default_rng(shade).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise)


def folder(tmp_path: Path) -> Path:
    root = tmp_path / "mine"
    for number, name in enumerate(["b/2.png", "b/10.png", "a.png", "b/.hidden.png"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(root / name)
    (root / "notes.txt").write_text("no image")
    return root


def archive(tmp_path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as made:
        for name, content in members.items():
            made.writestr(name, content)
    return tmp_path / "mine.zip"


def content(shade: int) -> bytes:
    file = io.BytesIO()
    picture(shade).save(file, "PNG")
    return file.getvalue()


def test_a_folder_gives_its_images_sorted_and_normalized_as_training_does(tmp_path: Path) -> None:
    root = folder(tmp_path)
    with open_images([root]) as images:
        assert images.names == ("a.png", "b/10.png", "b/2.png")
        found = list(images.batches(SPEC, 2))
        some = torch.cat(list(images.batches(SPEC, 2, numbers=[2])))
    assert [part.shape for part in found] == [(2, 3, 8, 8), (1, 3, 8, 8)]
    expected = to_square(picture(0), 3, 8)
    assert found[1].dtype == torch.uint8
    np.testing.assert_array_equal(found[1][0].permute(1, 2, 0).numpy(), expected)
    assert torch.equal(some, found[1])


def test_an_archive_gives_what_its_folder_gives(tmp_path: Path) -> None:
    root = folder(tmp_path)
    made = archive(tmp_path, {f"{name}": (root / name).read_bytes() for name in ("b/2.png", "a.png", "b/10.png")})
    with open_images([root]) as plain, open_images([made]) as packed:
        assert packed.names == plain.names
        whole = torch.cat(list(plain.batches(SPEC, 3)))
        assert torch.equal(torch.cat(list(packed.batches(SPEC, 1))), whole)


def test_files_come_in_the_order_given_and_several_paths_keep_their_names_apart(tmp_path: Path) -> None:
    root = folder(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    picture(9).save(other / "a.png")
    made = archive(tmp_path, {"a.png": content(7)})
    with open_images([root / "b/2.png"]) as one:
        assert one.names == ("2.png",)
    with open_images([root / "b/2.png", root / "a.png"]) as files:
        assert files.names == ("b/2.png", "a.png")
    with open_images([other / "a.png", root]) as mixed:
        assert mixed.names == ("other/a.png", "mine/a.png", "mine/b/10.png", "mine/b/2.png")
    with open_images([made, other]) as mixed:
        assert mixed.names == ("mine/a.png", "other/a.png")


def test_what_has_one_name_is_refused(tmp_path: Path) -> None:
    root = folder(tmp_path)
    with pytest.raises(UserError, match=r"'a\.png' is among the images twice"), open_images([root / "a.png"] * 2):
        pass


def test_paths_that_hold_no_image_or_lead_outside_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, words in ((tmp_path / "empty", "no images"), (tmp_path / "nothing", "no such file or folder")):
        with pytest.raises(UserError, match=words), open_images([path]):
            pass
    for member, words in (("/x.png", "'/x.png' leads out"), ("../x.png", "'../x.png' leads out")):
        with pytest.raises(UserError, match=words), open_images([archive(tmp_path, {member: content(1)})]):
            pass
    (tmp_path / "broken.zip").write_bytes(b"PK nothing")
    with pytest.raises(UserError, match=r"broken\.zip: no whole zip"), open_images([tmp_path / "broken.zip"]):
        pass


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"no image")
    with open_images([tmp_path / "x.png"]) as images, pytest.raises(UserError, match=r"x\.png' is no readable image"):
        list(images.batches(SPEC, 4))
