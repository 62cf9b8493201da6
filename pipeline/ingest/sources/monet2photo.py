"""Monet's paintings, and landscape photographs, as CycleGAN's authors gathered them; see _cyclegan.py."""

from pipeline.ingest.sources._cyclegan import cyclegan_set

SOURCE = cyclegan_set(
    "monet2photo", ("monet", "photo"), "88f91b00fc228f97c9411fbf1880ec1d119c98f1722e4cfcfaa2fb35fac05b04"
)
