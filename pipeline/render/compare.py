"""A run's comparisons with real images, from kept features alone."""

from pathlib import Path

from pipeline.config import Evaluate
from pipeline.evaluate.feature_set import TARGET, read_protocol, read_set
from pipeline.evaluate.scoring import GENERATE, REFERENCE
from pipeline.files import atomic_folder
from pipeline.render import comparisons
from pipeline.render.drawn import write_drawn
from pipeline.render.shown import write_list


def compare(folder: Path, features: Path, reference: Path, settings: Evaluate) -> None:
    """Draw every comparison of the settings with every extractor; none of samples that cannot be scored.

    Args:
        folder: where to; it replaces what is there.
        features: what the stage ``generate`` kept of the run.
        reference: what the stage ``reference`` kept of real images; a run that translates has its own.
        settings: which comparisons and extractors.

    Raises:
        UserError: features are missing or damaged.
    """
    target, stage = (features / TARGET, GENERATE) if (features / TARGET).is_dir() else (reference, REFERENCE)
    refused = read_protocol(features, GENERATE)["refused"]
    shown = []
    with atomic_folder(folder) as temporary:
        for extractor in () if refused else settings.extractor_names:
            samples, real = read_set(features, extractor, GENERATE), read_set(target, extractor, stage)
            for name in settings.comparisons:
                comparison = comparisons.load(name)
                if (drawn := comparison.draw(samples, real)) is not None:
                    title = f"{comparison.title}, {extractor}"
                    shown.append(write_drawn(temporary, f"{name}_{extractor}", drawn, title, comparison.caption))
        write_list(temporary, shown)
