"""Van Gogh's paintings, and landscape photographs, as CycleGAN's authors gathered them; see _cyclegan.py."""

from pipeline.ingest.sources._cyclegan import cyclegan_set

SOURCE = cyclegan_set(
    "vangogh2photo", ("vangogh", "photo"), "362c3473e70be0944bda08d49d660eafdc2854df55d697835b8186d1d79caaff"
)
