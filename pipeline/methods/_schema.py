"""The JSON schema of params.yaml, from which editors complete and check it.

It is built from the dataclasses that check the file: each section has one, and a run has the fields of ``Run`` and
those of its method. Draft 7, which every editor's YAML support reads. What ties two params together (a
``__post_init__``) is not in it.
"""

import inspect
import json
import re
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from pipeline import methods, registry
from pipeline.config import MEASURES, WARNINGS, Params, Run, Search
from pipeline.config.validation import json_schema
from pipeline.core.method import Method

PATH = Path("params.schema.json")
# Settings whose values are the names of files.
CHOICES = {
    "source": "pipeline.ingest.sources",
    "extractors": "pipeline.evaluate.extractors",
    "metrics": "pipeline.evaluate.metrics",
    "pictures": "pipeline.render.pictures",
    "comparisons": "pipeline.render.comparisons",
    "stop_on": WARNINGS,
    "keep": MEASURES,
}

Schema = dict[str, Any]


def write(path: Path = PATH) -> None:
    """Write the schema to a file, which belongs under version control."""
    path.write_text(json.dumps(build(), indent=1) + "\n")


def build() -> Schema:
    """Return the schema of the whole of params.yaml."""
    sections = {field.name: _section(field.name, field.type) for field in fields(Params)}
    required = [name for name, section in sections.items() if section.keys() & {"required", "minProperties"}]
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **_object(sections),
        "required": required,
        "definitions": {"run": _run(), "Run": {"properties": properties(Run)}} | _bases() | _methods(),
    }


def properties(cls: Any) -> dict[str, Schema]:
    """Return the schema of each field of a dataclass; described as in the "Attributes:" of its docstring."""
    found: dict[str, Schema] = _draft_7(json_schema(cls)["properties"])
    described = descriptions(cls)
    for name, schema in found.items():
        if name in CHOICES:
            names = registry.names(CHOICES[name])
            default = schema.get("default")
            own = [default] if isinstance(default, str) and default not in names else []  # such as keep: last
            schema.get("items", schema)["enum"] = [*own, *names]
        if name == "extractors":
            schema["items"] = {"anyOf": [schema["items"], {"type": "string", "pattern": r"\.pt2$"}]}
        if name in described:
            schema["description"] = described[name]
    return found


def descriptions(cls: type) -> dict[str, str]:
    """Return what the docstrings of a class and of its bases say about each attribute."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        _, _, section = (inspect.cleandoc(base.__doc__ or "")).partition("Attributes:\n")
        for name, text in re.findall(r"^    (\w+): (.*(?:\n {6,}.*)*)", section.split("\n\n")[0], re.MULTILINE):
            found[name] = " ".join(text.split())
    return found


def _section(name: str, kind: Any) -> Schema:
    """Return the schema of a section: a dataclass, or a mapping whose values are runs, or searches."""
    if name == "search":
        return _draft_7(json_schema(Params)["properties"][name]) | {"additionalProperties": _object(properties(Search))}
    if not is_dataclass(kind):
        return _draft_7(json_schema(Params)["properties"][name]) | {
            "additionalProperties": {"$ref": "#/definitions/run"}
        }
    required = json_schema(kind).get("required")
    return _object(properties(kind)) | ({"required": required} if required else {})


def _run() -> Schema:
    """Return the schema of a run: its method decides which params there are."""
    names = methods.names()
    cases = [
        {
            "if": {"properties": {"method": {"const": name}}, "required": ["method"]},
            "then": {"$ref": f"#/definitions/{name}"},
        }
        for name in names
    ]
    method = {"enum": names, "description": "A file of pipeline/methods."}
    return {"type": "object", "properties": {"method": method}, "required": ["method"], "allOf": cases}


def _methods() -> dict[str, Schema]:
    """Return the schema of a run of each method; a property that a base has too is a reference to it."""
    general = {name: _reference("Run", name) for name in properties(Run)}
    found = {}
    for name in methods.names():
        cls = methods.find(name)
        paper = " ".join((sys.modules[cls.__module__].__doc__ or "").split("\n\n")[0].split())
        own = {key: _inherited(cls, key, schema) for key, schema in properties(cls).items()}
        found[name] = _object(general | {"method": {"const": name, "description": paper}} | own)
    return found


def _bases() -> dict[str, Schema]:
    classes = {base for name in methods.names() for base in _families(methods.find(name))}
    return {base.__name__: {"properties": properties(base)} for base in sorted(classes, key=lambda base: base.__name__)}


def _families(cls: type[Method]) -> list[Any]:
    """Return the bases of a method that have params, the most general one first."""
    return [base for base in reversed(cls.__mro__[1:]) if is_dataclass(base) and fields(base)]


def _inherited(cls: type[Method], key: str, schema: Schema) -> Schema:
    same = (base for base in _families(cls) if properties(base).get(key) == schema)
    base = next(same, None)
    return schema if base is None else _reference(base.__name__, key)


def _reference(definition: str, key: str) -> Schema:
    return {"$ref": f"#/definitions/{definition}/properties/{key}"}


def _object(of: dict[str, Schema]) -> Schema:
    return {"type": "object", "properties": of, "additionalProperties": False}


def _draft_7(node: Any) -> Any:
    """Return a schema of draft 2020-12 as one of draft 7, without titles, which only repeat the names."""
    if isinstance(node, list):
        return [_draft_7(item) for item in node]
    if not isinstance(node, dict):
        return node
    renamed = {"items" if key == "prefixItems" else key: value for key, value in node.items()}
    return {key: _draft_7(value) for key, value in renamed.items() if key != "title" or not isinstance(value, str)}
