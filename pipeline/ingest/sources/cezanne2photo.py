"""Cézanne's paintings, and landscape photographs, as CycleGAN's authors gathered them; see _cyclegan.py."""

from pipeline.ingest.sources._cyclegan import cyclegan_set

SOURCE = cyclegan_set(
    "cezanne2photo", ("cezanne", "photo"), "3a6c10ca21f9485862f1cbd707744b9dc258954a04631271d23a3605eeb63cff"
)
