"""Ukiyo-e prints, and landscape photographs, as CycleGAN's authors gathered them; see _cyclegan.py."""

from pipeline.ingest.sources._cyclegan import cyclegan_set

SOURCE = cyclegan_set(
    "ukiyoe2photo", ("ukiyoe", "photo"), "02a2a2fb5ecf425ca1bf86aca7304377da64a2a1d3b86df54eb65e4068bf3b08"
)
