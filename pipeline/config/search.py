"""``search`` in params.yaml: which params of a run are searched for, between what, by what, and for how long."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.config.sections import Count, NonNegative, Positive, PositiveFloat, Probability
from pipeline.config.validation import shown, unknown
from pipeline.errors import nearest

RANGES = ("uniform", "loguniform", "int", "logint")
KINDS = (*RANGES, "choice")
WHOLE, LOGARITHMIC = ("int", "logint"), ("loguniform", "logint")
FIXED = ("method", "images", "seeds", "init_from", "weights", "domains")  # a trial is a run like this one


@dataclass(frozen=True, kw_only=True)
class Domain:
    """The values that a param may have.

    Attributes:
        kind: uniform, loguniform: a number; int, logint: a whole one; choice: one of a list.
        values: both ends of a range, which belong to it; or the choices.
        step: between two values of uniform or int.
        points: of a range, for the searcher grid.
        when: the param exists only where others have one of these values.
    """

    kind: Literal["uniform", "loguniform", "int", "logint", "choice"]
    values: tuple[Any, ...]
    step: float | None = None
    points: int | None = None
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether all values are whole numbers."""
        return self.kind in WHOLE

    @property
    def is_logarithmic(self) -> bool:
        """Whether equal ratios count alike, rather than equal differences."""
        return self.kind in LOGARITHMIC


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search for the best values of some params of a run.

    Attributes:
        space: by param of the run, its values, such as lr: {loguniform: [1e-4, 1e-2]}.
        objective: a score of the method's own, such as elbo_bits_per_dim; a metric and an extractor, such as
            fid_efficientnet_lite0; or seconds, of training. Several: what is best by one may be worse by another.
        searcher: grid: every combination; random; bayes: tree-structured Parzen estimators; gp: a Gaussian process.
        scheduler: what becomes of a trial that is worse than others at the same rung. none; asha: all but the best
            1 / reduction end; median: those worse than the median end; pbt: the worst go on from the checkpoints of the
            best, with other params (population-based training; the population is ``trials``).
        seed: of the searcher.
        trials: at most; null: no limit, or all of a grid.
        images: no trial begins after so many images were trained on, in all trials.
        seconds: after so many of searching, the trials stop at a checkpoint; more, later, go on from there.
        gpu_hours: no trial begins after so many.
        trial_images: of each trial; null: the run's images.
        rungs: images at which trials are scored, besides their end.
        reduction: of asha.
        quantile: of pbt: the share of the population that takes over, and that is taken over.
        factor: of pbt: a param is multiplied by it or divided by it.
        resample: of pbt: the probability that a param is drawn anew instead.
        startup: trials drawn at random before bayes and gp go by what they have seen.
        samples: images that a score is of.
        reference_samples: real images that a metric compares with, at most.
        split: which real images; test: held out.
        cpus_per_trial: and as many threads.
        gpus_per_trial: a part of one, such as 0.5, lets trials share it; null: 1 where the cluster has GPUs.
        concurrent: trials at a time; null: as many as the cluster has room for.
        confirm: seeds with which the best and the run's own setting are trained anew, to be compared; 0: none.
    """

    space: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    objective: Annotated[str, Field(min_length=1)] | Annotated[tuple[str, ...], Field(min_length=1)]
    searcher: Literal["grid", "random", "bayes", "gp"] = "bayes"
    scheduler: Literal["none", "asha", "median", "pbt"] = "none"
    seed: Count = 0
    trials: Positive | None = None
    images: Positive | None = None
    seconds: PositiveFloat | None = None
    gpu_hours: PositiveFloat | None = None
    trial_images: Positive | None = None
    rungs: tuple[Positive, ...] = ()
    reduction: Annotated[int, Field(ge=2)] = 3
    quantile: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    factor: Annotated[float, Field(gt=1)] = 1.2
    resample: Probability = 0.25
    startup: Positive = 10
    samples: Annotated[int, Field(ge=10)] = 500
    reference_samples: Annotated[int, Field(ge=20)] = 1_000
    split: Literal["train", "test"] = "test"
    cpus_per_trial: Positive = 1
    gpus_per_trial: NonNegative | None = None
    concurrent: Positive | None = None
    confirm: Count = 0

    def __post_init__(self) -> None:
        if self.searcher != "grid" and not (self.trials or self.images or self.seconds or self.gpu_hours):
            raise ValueError("trials: say when the search ends: trials, images, seconds or gpu_hours")
        if list(self.rungs) != sorted(set(self.rungs)):
            raise ValueError(f"rungs: name them in ascending order, each once, not {list(self.rungs)}")
        if self.trial_images and self.rungs and self.rungs[-1] >= self.trial_images:
            raise ValueError(
                f"rungs: the last one, {self.rungs[-1]}, is not before the end of a trial, at {self.trial_images}"
            )
        if self.scheduler != "none" and not self.rungs:
            raise ValueError(f"rungs: {self.scheduler} judges trials there; name some, such as [10000, 30000]")
        if self.scheduler != "none" and len(self.objectives) > 1:
            raise ValueError(f"scheduler: {self.scheduler} judges by one objective; take none, or name one objective")
        if self.scheduler == "pbt":
            self._check_population()
        if self.confirm == 1:
            raise ValueError("confirm: one seed has no spread; take 2 or more, better 5, or 0 for none")
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError("objective: one stands there more than once; leave one")

    def _check_population(self) -> None:
        """Raise ValueError if this cannot be a population."""
        if self.searcher != "random":
            raise ValueError(
                f"searcher: pbt draws its population at random and changes it itself; take random, not {self.searcher}"
            )
        if (self.trials or 0) < 2:
            raise ValueError("trials: they are pbt's population; name 2 at least, better 8")

    @property
    def objectives(self) -> tuple[str, ...]:
        """All objectives, the first of which ranks."""
        return (self.objective,) if isinstance(self.objective, str) else self.objective

    @property
    def domains(self) -> dict[str, Domain]:
        """The space, each param after those on which its existence depends."""
        return read_space(self.space, "")[0]


def read_space(raw: Mapping[str, Mapping[str, Any]], prefix: str) -> tuple[dict[str, Domain], list[str]]:
    """Read the values of params.

    Args:
        raw: the space, as YAML gives it.
        prefix: of its keys, such as "search.vae.space.".

    Returns:
        By param its values, each after those that its ``when`` names; and what is wrong, one line each.
    """
    problems: list[str] = []
    found: dict[str, Domain] = {}
    for name, entry in raw.items():
        wrong = [*unknown(entry, [*KINDS, "step", "points", "when"], f"{prefix}{name}.")]
        wrong = wrong or [f"{prefix}{name}{line}" for line in _problems(entry)]
        problems += wrong
        if not wrong:
            found[name] = _domain(entry)
    for name, domain in found.items():
        problems += [f"{prefix}{name}.when.{line}" for line in _problems_of_when(domain, found, raw)]
    return ({}, problems) if problems else _in_order(found, prefix)


def _problems(entry: Mapping[str, Any]) -> list[str]:
    kinds = [kind for kind in KINDS if kind in entry]
    if len(kinds) != 1:
        said = f"not {' and '.join(kinds)}" if kinds else "such as {loguniform: [0.0001, 0.01]}"
        return [f": name its values by one of {', '.join(KINDS)}, {said}."]
    kind, values = kinds[0], entry[kinds[0]]
    if not isinstance(values, list) or (kind == "choice" and not values) or (kind in RANGES and len(values) != 2):
        wanted = "a list of values" if kind == "choice" else "both ends of a range, such as [1, 8]"
        return [f".{kind}: expected {wanted}, got {shown(values)}."]
    found = _problems_of_choices(values) if kind == "choice" else _problems_of_range(kind, *map(as_number, values))
    found += _problems_of_parts(kind, entry)
    when = entry.get("when", {})
    if not isinstance(when, dict):
        found.append(f".when: expected params and their values, such as {{net: resnet}}, got {shown(when)}.")
    return found


def _problems_of_choices(values: Sequence[Any]) -> list[str]:
    twice = [value for place, value in enumerate(values) if value in values[:place]]
    return [f".choice: {shown(value)} stands there more than once; leave one." for value in twice[:1]]


def _problems_of_range(kind: str, low: Any, high: Any) -> list[str]:
    numbers = (int,) if kind in WHOLE else (int, float)
    for end in (low, high):
        if not isinstance(end, numbers) or isinstance(end, bool):
            return [f".{kind}: expected {'whole numbers' if kind in WHOLE else 'numbers'}, got {shown(end)}."]
    if low >= high:
        return [f".{kind}: the range from {low} to {high} is empty; the lower end comes first."]
    if kind in LOGARITHMIC and low <= 0:
        return [f".{kind}: a logarithm has no {low}; begin above 0, or take {kind.removeprefix('log')}."]
    return []


def _problems_of_parts(kind: str, entry: Mapping[str, Any]) -> list[str]:
    step, points = as_number(entry.get("step")), entry.get("points")
    found = []
    if step is not None and kind not in ("uniform", "int"):
        found.append(f".step: {kind} has none; leave it out.")
    elif step is not None and (not isinstance(step, int if kind == "int" else int | float) or step <= 0):
        found.append(f".step: expected a {'whole ' if kind == 'int' else ''}number greater than 0, got {shown(step)}.")
    if points is not None and (kind == "choice" or not isinstance(points, int) or points < 2):
        found.append(f".points: expected a whole number of at least 2, for a range, got {shown(points)}.")
    return found


def _domain(entry: Mapping[str, Any]) -> Domain:
    kind: Any = next(kind for kind in KINDS if kind in entry)
    values = [value if kind == "choice" else as_number(value) for value in entry[kind]]
    if kind in ("uniform", "loguniform"):
        values = [float(value) for value in values]
    whens = {name: tuple(v if isinstance(v, list) else [v]) for name, v in entry.get("when", {}).items()}
    return Domain(
        kind=kind,
        values=tuple(tuple(value) if isinstance(value, list) else value for value in values),
        step=as_number(entry.get("step")),
        points=entry.get("points"),
        when=whens,
    )


def _problems_of_when(domain: Domain, known: Mapping[str, Domain], raw: Mapping[str, Any]) -> list[str]:
    found = []
    for name, values in domain.when.items():
        if name not in raw:
            found.append(f"{name}: it is not searched for. {nearest(name, raw)}")
        elif name in known and known[name].kind != "choice":
            found.append(f"{name}: only a choice can decide whether another param exists.")
        elif name in known:
            strange = [value for value in values if value not in known[name].values]
            found += [f"{name}: {shown(value)} is none of its choices." for value in strange]
    return found


def _in_order(domains: Mapping[str, Domain], prefix: str) -> tuple[dict[str, Domain], list[str]]:
    found: dict[str, Domain] = {}
    left = dict(domains)
    while left:
        ready = [name for name, domain in left.items() if found.keys() >= domain.when.keys()]
        if not ready:
            return {}, [f"{prefix}{next(iter(left))}.when: {' and '.join(left)} wait for each other; leave one out."]
        found |= {name: left.pop(name) for name in ready}
    return found, []


def as_number(value: Any) -> Any:
    """Return text such as 1e-4, which YAML 1.1 reads as text, as the number; anything else as it is."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
