"""The posterior has collapsed: hardly a latent dimension says anything about the image (Bowman et al.,
arXiv:1511.06349, section 3.1), so what is decoded depends on noise alone.

An encoder begins so too; vae on 16-pixel digits has all 32 units active at 5,000 images (beta 4).
"""

from collections.abc import Mapping

from pipeline.watch.warning import EarlyWarning, Finding, Past

FEW = 0.05  # of the units
LOOKS, IMAGES = 2, 4_000


def _find(past: Past) -> Finding | None:
    def passive(values: Mapping[str, float]) -> bool:
        return values.get("active_units", 1.0) < FEW

    since = past.held_since(passive, looks=LOOKS, images=IMAGES)
    if since is None:
        return None
    return Finding(since, f"{past.looks[-1].values['active_units']:.0%} of the latent dimensions are active")


WARNING = EarlyWarning(
    title="posterior collapse",
    find=_find,
    needs=frozenset({"active_units"}),
    remedies={
        "beta": "a lower beta (now {beta:g})",
        "beta_warm_up": "beta_warm_up",
        "free_bits": "free_bits",
        "lr": "a lower lr (now {lr:g})",
    },
)
