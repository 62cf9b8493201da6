"""The critic has won: it tells every sample from a real image, and samples are far from real ones and come no nearer.

That it tells them apart means little by itself: dcgan's critic does so on digits through the whole of a good training,
for it knows the training images. So the samples must be bad too (a Frechet distance of pooled pixels above half of
the real images' variance; good runs end at 0.1 to 0.15), and over some ten thousand images neither come nearer nor get
more diverse. On MNIST at 32 pixels good runs of dcgan spend 40,000 to 60,000 images in such a state, and leave it:
their distances wander (1.2, 1.0, 1.35, 0.9), their diversity grows from 0.15 to 0.6. So the best looks are compared.
"""

from collections.abc import Mapping

from pipeline.watch.warning import EarlyWarning, Finding, Past

CERTAIN = 0.999  # of ranking a real image above a sample
FAR = 0.5
LOOKS, IMAGES = 4, 25_000
NEARER, MORE_DIVERSE = 0.9, 1.25  # times what it was: that is learning


def _find(past: Past) -> Finding | None:
    def won(values: Mapping[str, float]) -> bool:
        return values.get("critic_auc", 0.0) > CERTAIN and values.get("frechet_pixels", 0.0) > FAR

    since = past.held_since(won, looks=LOOKS, images=IMAGES)
    if since is None:
        return None
    now = past.looks[-1].seen
    before = [point.values for point in past.looks if since <= point.seen <= now - IMAGES]
    lately = [point.values for point in past.looks if point.seen > now - IMAGES]
    was, distance = (min(values["frechet_pixels"] for values in part) for part in (before, lately))
    spread_before, spread = (max(values.get("diversity", 0.0) for values in part) for part in (before, lately))
    if distance < NEARER * was or spread > MORE_DIVERSE * spread_before:
        return None
    course = f"which were {was:.3g} from real images at best, and in {IMAGES:,} images {distance:.3g}"
    return Finding(since, f"the critic knows all samples, {course}")


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
