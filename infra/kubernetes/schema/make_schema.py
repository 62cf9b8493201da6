"""KubeRay's CRDs as one JSON Schema that refuses unknown fields: kuberay.json beside this file.

The CRDs are ray-project/kuberay's (Apache License 2.0), ray-operator/config/crd/bases at the tag of KUBERAY. They take
2.3 MB, since each repeats Kubernetes' pod template; here what is repeated is one of $defs.

    python infra/kubernetes/schema/make_schema.py ray.io_rayclusters.yaml ray.io_rayjobs.yaml

Left out: CEL rules (x-kubernetes-validations), which only an API server evaluates.
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

KUBERAY = "v1.7.0"
_WORTH_SHARING = 120  # characters


def strict(node: Any) -> Any:
    """Convert an openAPIV3Schema to JSON Schema: no field but those named, and without Kubernetes' own keywords."""
    if isinstance(node, list):
        return [strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    schema = {key: strict(value) for key, value in node.items() if not key.startswith("x-") and key != "properties"}
    if "properties" in node:
        schema["properties"] = {name: strict(field) for name, field in node["properties"].items()}
        schema.setdefault("additionalProperties", bool(node.get("x-kubernetes-preserve-unknown-fields")))
    return schema


def shared(schemas: dict[str, Any]) -> dict[str, Any]:
    """Move what occurs more than once in the schemas to $defs."""
    counts: Counter[str] = Counter()
    definitions: dict[str, Any] = {}
    names: dict[str, str] = {}

    def count(node: Any) -> None:
        if isinstance(node, dict):
            counts[text := json.dumps(node, sort_keys=True)] += 1
            if counts[text] > 1:
                return
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            count(child)

    def replaced(node: Any) -> Any:
        if isinstance(node, list):
            return [replaced(item) for item in node]
        if not isinstance(node, dict):
            return node
        text = json.dumps(node, sort_keys=True)
        if counts[text] < 2 or len(text) < _WORTH_SHARING:
            return {key: replaced(value) for key, value in node.items()}
        if text not in names:
            names[text] = f"d{len(names)}"
            definitions[names[text]] = {key: replaced(value) for key, value in node.items()}
        return {"$ref": f"#/$defs/{names[text]}"}

    count(schemas)
    return {"kinds": replaced(schemas), "$defs": definitions}


def main(*paths: str) -> None:
    """Write kuberay.json from the files of KubeRay's resource definitions."""
    schemas = {}
    for path in paths:
        definition = yaml.safe_load(Path(path).read_text())["spec"]
        version = next(version for version in definition["versions"] if version["storage"])
        schemas[definition["names"]["kind"]] = strict(version["schema"]["openAPIV3Schema"])
    origin = f"ray-project/kuberay {KUBERAY}, Apache License 2.0; made by make_schema.py"
    text = json.dumps({"$comment": origin} | shared(schemas), separators=(",", ":"))
    Path(__file__).with_name("kuberay.json").write_text(text + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
