"""The critic has won: it tells every sample from a real image, and samples are far from real ones and come no nearer.

That it tells them apart means little by itself: dcgan's critic does so on digits through the whole of a good training,
for it knows the training images. So the samples must be bad too (a Frechet distance of pooled pixels above half of
the real images' variance; good runs end at 0.1 to 0.15), and not get better over some ten thousand images.
"""

from collections.abc import Mapping

from pipeline.watch.warning import EarlyWarning, Finding, Past

CERTAIN = 0.999  # of ranking a real image above a sample
FAR = 0.5
LOOKS, IMAGES = 3, 9_000
BETTER = 0.9  # times what it was, at most: that is learning


def _find(past: Past) -> Finding | None:
    def won(values: Mapping[str, float]) -> bool:
        return values.get("critic_auc", 0.0) > CERTAIN and values.get("frechet_pixels", 0.0) > FAR

    since = past.held_since(won, looks=LOOKS, images=IMAGES)
    if since is None:
        return None
    now = past.looks[-1]
    # The looks of the last IMAGES, and the one before them to compare with.
    earlier = [point for point in past.looks if since <= point.seen <= now.seen - IMAGES]
    first, distance = earlier[-1], now.values["frechet_pixels"]
    if distance < BETTER * first.values["frechet_pixels"]:
        return None
    was = first.values["frechet_pixels"]
    course = f"which were {was:.3g} from real images and are {distance:.3g}"
    return Finding(first.seen, f"the critic knows all samples, {course}")


WARNING = EarlyWarning(
    title="critic won",
    find=_find,
    needs=frozenset({"critic_auc", "frechet_pixels"}),
    remedies={
        "critic_lr": "a critic_lr below lr",
        "critic_steps": "fewer critic_steps (now {critic_steps}), or method: wgan_gp",
        "spectral_norm": "spectral_norm: true",
        "critic_augment": "critic_augment: ada where images are few",
        "lr": "a lower lr (now {lr:g})",
    },
)
