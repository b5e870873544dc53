"""KubeRay's definitions of its kinds as strict schemas: what an API server would refuse, and unknown fields.

An API server drops unknown fields in silence; a misspelled one is a setting that does not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from support.manifests import LOADER, Manifest

CRDS = Path(__file__).parents[3] / "shared/kuberay-crds"
KINDS = {"RayCluster", "RayJob", "RayService", "RayCronJob"}

Schema = dict[str, Any]

# Rules of the definitions in CEL, by their text. `self == oldSelf` is about changes.
RULES: dict[str, Callable[[Any], bool]] = {
    "self == oldSelf": lambda value: True,
    "self in ['ray.io/kuberay-operator', 'kueue.x-k8s.io/multikueue']": lambda value: (
        value in ("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue")
    ),
    "!((has(self.onSuccess) || has(self.onFailure)) && has(self.deletionRules))": lambda value: (
        not (("onSuccess" in value or "onFailure" in value) and "deletionRules" in value)
    ),
    "((has(self.onSuccess) && has(self.onFailure)) || has(self.deletionRules))": lambda value: (
        ("onSuccess" in value and "onFailure" in value) or "deletionRules" in value
    ),
    "!(has(self.jobStatus) && has(self.jobDeploymentStatus))": lambda value: (
        not ("jobStatus" in value and "jobDeploymentStatus" in value)
    ),
    "has(self.jobStatus) || has(self.jobDeploymentStatus)": lambda value: (
        "jobStatus" in value or "jobDeploymentStatus" in value
    ),
}


def faults(manifest: Manifest) -> list[str]:
    """What is wrong with an object of KubeRay, its defaults filled in."""
    schema = schemas().get((manifest["apiVersion"], manifest["kind"]))
    if schema is None:
        return [f"no kind {manifest['kind']} in {manifest['apiVersion']}"]
    value = {**manifest, "metadata": {}}
    fill_defaults(schema, value)
    found = [
        f"{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}"
        for error in Draft202012Validator(strict(schema)).iter_errors(value)
    ]
    return found + [f"{path}: {message}" for path, message in broken_rules(schema, value, "")]


@cache
def schemas() -> dict[tuple[str, str], Schema]:
    found = {}
    for path in sorted(CRDS.glob("ray.io_*.yaml")):
        definition = yaml.load(path.read_text(), LOADER)["spec"]
        for version in definition["versions"]:
            schema = version["schema"]["openAPIV3Schema"]
            key = f"{definition['group']}/{version['name']}", definition["names"]["kind"]
            found[key] = schema
    return found


def strict(schema: Any) -> Any:
    """The same in the words of JSON Schema, without room for fields that it does not name."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    out = {
        key: {name: strict(item) for name, item in value.items()}
        if key == "properties"
        else strict(value)
        for key, value in schema.items()
        if not key.startswith("x-kubernetes") and key not in ("description", "default")
    }
    if schema.get("x-kubernetes-int-or-string"):
        out.pop("anyOf", None)
        out["type"] = ["integer", "string"]
    if schema.get("nullable") and isinstance(out.get("type"), str):
        out["type"] = [out["type"], "null"]
    if "properties" in out and not schema.get("x-kubernetes-preserve-unknown-fields"):
        out.setdefault("additionalProperties", False)
    return out


def fill_defaults(schema: Schema, value: Any) -> None:
    if isinstance(value, dict):
        for name, item in schema.get("properties", {}).items():
            if "default" in item:
                value.setdefault(name, item["default"])
            if name in value:
                fill_defaults(item, value[name])
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for item in value:
            fill_defaults(schema["items"], item)


def broken_rules(schema: Schema, value: Any, path: str) -> Iterator[tuple[str, str]]:
    for rule in schema.get("x-kubernetes-validations", []):
        if not RULES[rule["rule"]](value):
            yield path, rule["message"]
    if isinstance(value, dict):
        for name, item in schema.get("properties", {}).items():
            if name in value:
                yield from broken_rules(item, value[name], f"{path}/{name}")
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for number, item in enumerate(value):
            yield from broken_rules(schema["items"], item, f"{path}/{number}")
