"""docs/data.md and README.md name what there is."""

from pathlib import Path

from pipeline.ingest import sources
from pipeline.ingest.archived_dataset import ArchivedDataset
from pipeline.ingest.torchvision_dataset import TorchvisionDataset

ROOT = Path(__file__).parents[2]


def test_every_source_is_on_the_page_and_counted_in_the_readme() -> None:
    page = (ROOT / "docs" / "data.md").read_text()
    assert not [name for name in sources.names() if f"`{name}`" not in page]
    assert f"has all {len(sources.names())}," in (ROOT / "README.md").read_text()


def test_every_published_file_has_a_hash_and_an_address_or_a_word_for_a_person() -> None:
    found = [sources.find(name) for name in sources.names()]
    published = [one for one in found if isinstance(one, ArchivedDataset | TorchvisionDataset)]
    assert len(published) == sum(not one.own for one in found) - 1  # digits come with scikit-learn
    lengths = {"md5": 32, "sha256": 64}
    for source in published:
        for file in source.files:
            algorithm, _, digest = file.digest.partition(":")
            assert len(digest) == lengths[algorithm] and set(digest) <= set("0123456789abcdef"), file
            by_hand = isinstance(source, ArchivedDataset) and source.by_hand
            assert all(url.startswith(("http://", "https://")) for url in file.urls) and (file.urls or by_hand), file
