"""Laws of the methods' params: types say what fits, defaults fit, and names that are said twice agree."""

from dataclasses import fields
from inspect import get_annotations
from typing import Any, get_args

import pytest

from pipeline import methods
from pipeline.families.latents import PRIORS, PriorName
from pipeline.families.ode import STEPS, FixedSolver, Solver
from pipeline.families.optimization import OPTIMIZERS, SCHEDULES, OptimizerName, Schedule
from pipeline.families.vae import LIKELIHOODS, LikelihoodName
from pipeline.methods._schema import descriptions
from pipeline.methods.gan import OBJECTIVES, Objective
from pipeline.nets.critic_augment import AUGMENTS, AugmentName
from pipeline.nets.flow.bijections import FLOW_NORMS, FlowNorm
from pipeline.nets.layers import _NORMS, _UPSAMPLINGS, NormName, Upsampling
from pipeline.nets.pairs import PAIRS, NetName

NAMES = methods.names()


@pytest.mark.parametrize(
    ("names", "table"),
    [
        (AugmentName, AUGMENTS),
        (FixedSolver, STEPS),
        (FlowNorm, FLOW_NORMS),
        (LikelihoodName, LIKELIHOODS),
        (NetName, PAIRS),
        (NormName, _NORMS),
        (Objective, OBJECTIVES),
        (OptimizerName, OPTIMIZERS),
        (PriorName, PRIORS),
        (Schedule, SCHEDULES),
        (Solver, STEPS | {"dopri5": None}),
        (Upsampling, _UPSAMPLINGS),
    ],
)
def test_every_name_that_a_type_allows_is_in_its_table(names: Any, table: dict[str, Any]) -> None:
    assert set(get_args(names)) == set(table)


@pytest.mark.parametrize("name", NAMES)
def test_a_methods_defaults_fit_and_make_it(name: str) -> None:
    cls = methods.find(name)
    assert methods.load(name) == cls()
    assert methods.load(name, **{field.name: field.default for field in fields(cls)}) == cls()


@pytest.mark.parametrize("name", NAMES)
def test_every_param_has_limits_and_a_new_default_keeps_them(name: str) -> None:
    cls = methods.find(name)
    declared = [get_annotations(parent) for parent in cls.__mro__]
    for key in (field.name for field in fields(cls)):
        types = [annotations[key] for annotations in declared if key in annotations]
        assert all(kind == types[0] for kind in types), key
        assert not {int, float, str} & {types[0], *get_args(types[0])} or hasattr(types[0], "__metadata__"), key


@pytest.mark.parametrize("name", NAMES)
def test_a_default_is_that_of_the_nearest_class_that_says_it(name: str) -> None:
    """A dataclass takes over all fields of each of its parents, so a second parent can undo what the first one said."""
    cls = methods.find(name)
    for field in fields(cls):
        said = next(parent for parent in cls.__mro__ if field.name in get_annotations(parent))
        assert field.default == said.__dict__[field.name], f"{field.name} of {said.__name__}"


# Of every method; they are no params.
CLASS_VARIABLES = {"sampled", "needs", "views", "starts_from", "encodes", "decodes", "directions", "criticizes"}


@pytest.mark.parametrize("name", NAMES)
def test_a_methods_docstrings_describe_its_params_and_nothing_else(name: str) -> None:
    cls = methods.find(name)
    assert {field.name for field in fields(cls)} == set(descriptions(cls)) - CLASS_VARIABLES


@pytest.mark.parametrize("name", NAMES)
def test_a_methods_params_are_checked_in_python_too(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} has no param 'lrr'. Did you mean 'lr'"):
        methods.load(name, lrr=1)
    with pytest.raises(ValueError, match=r"^lr: expected a number greater than 0, got -1\.$"):
        methods.load(name, lr=-1)
    with pytest.raises(ValueError, match=r"^optimizer: expected 'sgd', .*, got 'lion'\.$"):
        methods.load(name, optimizer="lion")
