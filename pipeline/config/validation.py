"""Values of a file against the types of a dataclass: what does not fit is said in words, all of it at once."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from pipeline.errors import nearest, refuse

_PLAIN = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}


def bounds(
    *, gt: float | None = None, ge: float | None = None, lt: float | None = None, le: float | None = None
) -> Any:
    """Return the limits of a number as the metadata of an ``Annotated`` type."""
    return Field(gt=gt, ge=ge, lt=lt, le=le)


def field_names(cls: Any) -> list[str]:
    """List what a dataclass takes."""
    return [field.name for field in fields(cls) if field.init]


def unknown(raw: Mapping[Any, Any], known: Sequence[str], prefix: str, also: Sequence[str] = ()) -> list[str]:
    """Return a line for each key that is not known, with the nearest that is.

    Args:
        raw: a section, or a run.
        known: the names that it may have.
        prefix: of the keys, such as "data.".
        also: further names to suggest.

    Returns:
        Lines that begin with the key.
    """
    return [f"{prefix}{key}: unknown param. {nearest(str(key), [*known, *also])}" for key in raw if key not in known]


def misfits(cls: Any, raw: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return a line for each field whose value does not fit: what is expected, and what is given.

    Args:
        cls: the dataclass.
        raw: its fields, as YAML gives them; what is no field is ignored (see ``unknown``).
        prefix: of the keys, such as "runs.dcgan.".

    Returns:
        Lines that begin with the key.
    """
    try:
        _adapter(cls).validate_python(_with_numbers(cls, raw))
    except ValidationError as error:
        lines: dict[str, str] = {}
        for found in error.errors():
            if found["type"] == "value_error":  # from a __post_init__, whose message begins with the field
                return [_sentence(f"{prefix}{found['ctx']['error']}")]
            key = str(found["loc"][0])
            lines.setdefault(key, _sentence(f"{prefix}{key}: {_mismatch(cls, key, raw)}"))
        return list(lines.values())
    return []


def validated(cls: Any, raw: Mapping[str, Any]) -> Any:
    """Return an instance of a dataclass after checking the types and ranges of its fields.

    Args:
        cls: the dataclass.
        raw: its fields by name; what is no field is ignored (see ``unknown``).

    Returns:
        The instance.

    Raises:
        ValueError: values that do not fit: "field: expected this, got that".
    """
    if found := misfits(cls, raw):
        raise ValueError(" ".join(found))
    return _adapter(cls).validate_python(_with_numbers(cls, raw))


def checked(cls: Any, raw: dict[str, Any], path: Path, prefix: str, also: Sequence[str] | None = None) -> Any:
    """Return an instance of a dataclass made from a section of a file.

    Args:
        cls: the dataclass.
        raw: its fields, as YAML gives them; a number may be text such as "1e-4".
        path: of the file, for the message.
        prefix: of the section's keys, such as "runs.dcgan.".
        also: names to suggest, besides the fields, for a key that is unknown; None: such keys are ignored.

    Returns:
        The instance, its types and ranges checked.

    Raises:
        UserError: all that does not fit, one line each, with file, key, what is expected and what is given.
    """
    strange = [] if also is None else unknown(raw, field_names(cls), prefix, also)
    refuse([f"{path}: {line}" for line in [*strange, *misfits(cls, raw, prefix)]])
    return _adapter(cls).validate_python(_with_numbers(cls, raw))


def json_schema(cls: Any) -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a dataclass."""
    return _adapter(cls).json_schema()


def _with_numbers(cls: Any, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields with text such as 1e4 as the number that a person means, unless text is what is expected."""
    kinds = get_type_hints(cls, include_extras=True)
    texts = {name for name, kind in kinds.items() if str in (kind, *get_args(kind))}
    return {name: value if name in texts else _number(value) for name, value in raw.items()}


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-4 as text."""
    try:
        return float(value) if isinstance(value, str) and value[:1] in set("0123456789+-.") else value
    except ValueError:
        return value


def shown(value: Any) -> str:
    """Return a value as a person writes it in YAML."""
    return {"None": "null", "True": "true", "False": "false"}.get(repr(value), repr(value))


def expected(kind: Any) -> str:
    """Describe the values that a type takes, limits included."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return expected(arguments[0]) + _limits(arguments[1:])
    if origin in (Union, UnionType):
        return " or ".join(expected(argument) for argument in arguments)
    if origin is Literal:
        *others, last = [shown(argument) for argument in arguments]
        return f"{', '.join(others)} or {last}" if others else last
    if origin is tuple:
        items = [item for item in arguments if item is not ...]
        return _list_of(items[0]) if len(items) < len(arguments) else f"[{', '.join(map(expected, items))}]"
    if origin is list:
        return "a list"
    return _PLAIN.get(kind, "a mapping")


def _list_of(kind: Any) -> str:
    return f"a list of {expected(kind).removeprefix('a ').replace('whole number', 'whole numbers')}"


def _limits(metadata: Sequence[Any]) -> str:
    found: dict[str, Any] = {}
    for item in metadata:
        for part in item.metadata if isinstance(item, FieldInfo) else [item]:
            found |= {
                name: getattr(part, name) for name in ("gt", "ge", "lt", "le", "min_length") if hasattr(part, name)
            }
    if "ge" in found and "le" in found:
        return f" from {found['ge']:g} to {found['le']:g}"
    words = {"gt": "greater than", "ge": "of at least", "lt": "less than", "le": "of at most"}
    limits = " and ".join(f"{word} {found[name]:g}" for name, word in words.items() if name in found)
    if "min_length" in found:
        limits = f"of at least {found['min_length']}"
    return f" {limits}" if limits else ""


def _mismatch(cls: Any, key: str, raw: Mapping[str, Any]) -> str:
    kind = get_type_hints(cls, include_extras=True)[key]
    if key not in raw:
        return f"expected {expected(kind)}, but it is missing"
    value = raw[key]
    choices = [choice for choice in get_args(kind) if isinstance(choice, str)] if get_origin(kind) is Literal else []
    close = get_close_matches(value, choices, n=1) if isinstance(value, str) else []
    return f"expected {expected(kind)}, got {shown(value)}" + (f". Did you mean {close[0]!r}?" if close else "")


def _sentence(line: str) -> str:
    return line if line.endswith((".", "?")) else f"{line}."


@cache
def _adapter(cls: Any) -> TypeAdapter[Any]:
    return TypeAdapter(cls)
