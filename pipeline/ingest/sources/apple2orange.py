"""Apples and oranges of ImageNet, as CycleGAN's authors gathered them; see _cyclegan.py."""

from pipeline.ingest.sources._cyclegan import cyclegan_set

SOURCE = cyclegan_set(
    "apple2orange", ("apple", "orange"), "845a191e9af8926408ea597001cd03a452e3300a1f44a79fe329b3d59f6e3eb8"
)
