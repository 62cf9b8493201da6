"""Mode collapse: samples of different latents are nearly alike.

Every generator begins so; hence it must have lasted for some thousand images. Healthy runs of 16-pixel digits have left
it after 3,000 (dcgan: 0.13 there, 0.3 at 5,000, 1 to 1.3 from 15,000 on), collapsed ones have 0.000 to 0.03.
"""

from collections.abc import Mapping

from pipeline.watch.warning import EarlyWarning, Finding, Past

ALIKE = 0.05  # of real images' distance
LOOKS, IMAGES = 2, 4_000


def _find(past: Past) -> Finding | None:
    def alike(values: Mapping[str, float]) -> bool:
        return values.get("diversity", 1.0) < ALIKE

    since = past.held_since(alike, looks=LOOKS, images=IMAGES)
    if since is None:
        return None
    value = past.looks[-1].values["diversity"]
    return Finding(since, f"a sample lies {value:.2g} as far from its nearest other one as a real image does")


WARNING = EarlyWarning(
    title="collapse",
    find=_find,
    needs=frozenset({"diversity"}),
    remedies={
        "lr": "a lower lr (now {lr:g})",
        "critic_lr": "a critic_lr of its own",
        "critic_augment": "critic_augment: ada where images are few",
        "critic_steps": "method: wgan_gp or r3gan, whose critics leave the generator a gradient",
    },
)
