"""What was found in all chunks of an examination, put together in the chunks' order."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from pipeline.evaluate.chunks import About, Kind, Part
from pipeline.evaluate.extractor import Features, join
from pipeline.inference.generate import Tally


@dataclass(kw_only=True)
class Found:
    """All of it.

    Attributes:
        about: who examined.
        tally: how many samples were made and drawn anew.
        labelled: whether the method's samples are of the labels that it is given.
        paths: squared distances on latent paths, by extractor, in order.
        scores: of the method's own scores, in order.
        spoilt: what is not finite, by the kind of chunk.
    """

    about: About
    tally: Tally = field(default_factory=Tally)
    labelled: bool = True
    scores: list[Mapping[str, Tensor]] = field(default_factory=list)
    paths: dict[str, list[Tensor]] = field(default_factory=dict)
    spoilt: dict[Kind, str] = field(default_factory=dict)
    _features: dict[tuple[Kind, str], list[Features]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, parts: Iterable[Part]) -> "Found":
        """Put parts together.

        Args:
            parts: in order, samples first; no more are asked for once the samples are refused, as none is scored then.

        Returns:
            What was found.

        Raises:
            ValueError: there are none.
        """
        found: Found | None = None
        for part in parts:
            if found and part.chunk.kind != "samples" and found.tally.too_many:
                break
            found = found or cls(about=part.about)
            found._add(part)
            if "samples" in found.spoilt:
                break
        if found is None:
            raise ValueError("there is nothing to examine")
        return found

    def features(self, kind: Kind) -> dict[str, Features]:
        """Return the features of all images of a kind, by extractor; to be asked for once, as it lets go of them."""
        names = [name for known, name in self._features if known == kind]
        return {name: join(self._features.pop((kind, name))) for name in names}

    def _add(self, part: Part) -> None:
        kind = part.chunk.kind
        if part.spoilt is not None:
            self.spoilt.setdefault(kind, part.spoilt)
            return
        for name, features in part.features.items():
            self._features.setdefault((kind, name), []).append(features)
        if kind == "samples":
            self.tally.samples += len(part.chunk)
            self.tally.redrawn += part.redrawn
        elif kind == "labels":
            self.labelled = part.labelled
        for name, squared in part.paths.items():
            self.paths.setdefault(name, []).append(squared)
        self.scores += part.scores
