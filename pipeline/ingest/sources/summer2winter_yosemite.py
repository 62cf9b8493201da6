"""Yosemite in summer and in winter, as CycleGAN's authors gathered them; see _cyclegan.py."""

from pipeline.ingest.sources._cyclegan import cyclegan_set

SOURCE = cyclegan_set(
    "summer2winter_yosemite", ("summer", "winter"), "167fe1726807a9d22bd106b4a6c0bd7953b688af924ac1bf967439c4961e49f9"
)
