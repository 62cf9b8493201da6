"""Horses and zebras of ImageNet, as CycleGAN's authors gathered them; see _cyclegan.py."""

from pipeline.ingest.sources._cyclegan import cyclegan_set

SOURCE = cyclegan_set(
    "horse2zebra", ("horse", "zebra"), "a74d9d392eecca9966b51287a76ca126af473d9de4f3e8fc0e9cda08fa1730a1"
)
