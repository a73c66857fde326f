"""
Validate objects against the schemas of Kubernetes, its oldest and newest supported version, and of custom resources.

Unknown fields are errors everywhere, and so is an object of which no schema is known: nobody has judged it.
The package kubernetes-validate brings the schemas; those of custom resources come from the projects that define them.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate  # type: ignore[import-untyped]
import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from kube.objects import Object, dig, mapping, mappings, title
from kube.toolchain import crd_files
from kube.versions import VersionsError, kubernetes

__all__ = ["Invalid", "validate"]

_SCHEMAS = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
# Longer texts of a validator say nothing more.
_TEXT = 160
# Keywords that hold values, not schemas.
_VALUES = ("default", "enum", "example", "properties", "required")


@dataclass(frozen=True, slots=True, order=True)
class Invalid:
    """
    A part of an object that its schema does not accept.

    Attributes:
        object: The object as `Kind namespace/name`.
        path: Where in it.
        schema: Whose schema: a version of Kubernetes, or the name of a custom resource definition.
        reason: What was found and what is accepted.
    """

    object: str
    path: str
    schema: str
    reason: str

    def __str__(self) -> str:
        return f"{self.object}: {self.path}: {self.reason} ({self.schema})"


def validate(objects: Iterable[Object], versions: Sequence[str] = ()) -> list[Invalid]:
    """Return what the schemas of Kubernetes in *versions*, else of the supported ones, do not accept."""
    once = {json.dumps(thing, sort_keys=True, default=str): thing for thing in objects}
    return sorted({each for thing in once.values() for each in _validate(thing, versions or kubernetes())})


def _validate(thing: Object, versions: Sequence[str]) -> Iterator[Invalid]:
    custom = _custom_validators().get((str(thing["apiVersion"]), str(thing["kind"])))
    if custom is not None:
        yield from _judged(thing, custom, "custom resource definition")
        return
    for version in versions:
        validator = _validator(version, str(thing["apiVersion"]), str(thing["kind"]))
        if validator is None:
            reason = f"found {thing['apiVersion']}, expected a kind that has a schema"
            yield Invalid(title(thing), "apiVersion", f"Kubernetes {version}", reason)
        else:
            yield from _judged(thing, validator, f"Kubernetes {version}")


def _judged(thing: Object, validator: Draft202012Validator, schema: str) -> Iterator[Invalid]:
    for error in validator.iter_errors(thing):
        best = jsonschema.exceptions.best_match([error])
        path = ".".join(str(part) for part in best.absolute_path)
        yield Invalid(title(thing), path or "the object", schema, _reason(best))


def _reason(error: jsonschema.ValidationError) -> str:
    if error.validator == "additionalProperties":
        known = mapping(error.schema, "properties")
        unknown = sorted(set(_keys(error.instance)) - set(known))
        return f"found {', '.join(unknown)}, expected one of {', '.join(sorted(known))}"
    text = " ".join(error.message.split())
    return f"found {text[:_TEXT]}, expected {error.validator} {str(error.validator_value)[:_TEXT]}"


def _keys(instance: Any) -> Iterator[str]:
    return map(str, instance)


@cache
def _validator(version: str, api_version: str, kind: str) -> Draft202012Validator | None:
    group, _, name = api_version.rpartition("/")
    folder = _folder(version)
    file = folder / f"{'-'.join(filter(None, (kind.lower(), group.partition('.')[0], name)))}.json"
    return Draft202012Validator(json.loads(file.read_text()), registry=_definitions(folder)) if file.is_file() else None


@cache
def _definitions(folder: Path) -> "Registry[Any]":
    definitions: Resource[Any] = Resource.from_contents(json.loads((folder / "_definitions.json").read_text()))
    return definitions @ Registry()


def _folder(version: str) -> Path:
    found = sorted(_SCHEMAS.glob(f"v{version}.*-local-strict"))
    if not found:
        there = ", ".join(sorted(path.name.split("-")[0] for path in _SCHEMAS.glob("*-local-strict")))
        raise VersionsError(f"infra/versions.toml: kubernetes: found {version}, expected one that has schemas: {there}")
    return found[-1]


@cache
def _custom_validators() -> Mapping[tuple[str, str], Draft202012Validator]:
    found = {}
    for file in crd_files():
        for definition in yaml.load_all(file.read_text(), yaml.CSafeLoader):
            group, kind = dig(definition, "spec", "group"), dig(definition, "spec", "names", "kind")
            for version in mappings(definition, "spec", "versions"):
                schema = _strict(mapping(version, "schema", "openAPIV3Schema"))
                # Of metadata a definition says nothing, the API server knows what is in there.
                schema["properties"]["metadata"] = {"type": "object"}
                found[f"{group}/{version['name']}", str(kind)] = Draft202012Validator(schema)
    return found


def _strict(schema: Any) -> Any:
    """Return a structural schema as JSON Schema that refuses what the API server would silently drop."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: value if key in _VALUES else _strict(value) for key, value in schema.items()}
    if "properties" in schema:
        strict["properties"] = {name: _strict(each) for name, each in schema["properties"].items()}
    if "enum" in schema and schema.get("nullable"):
        strict["enum"] = [*schema["enum"], None]
    if schema.get("x-kubernetes-int-or-string") is True:
        strict["type"] = ["integer", "string"]
    elif schema.get("nullable") is True and "type" in schema:
        strict["type"] = [schema["type"], "null"]
    is_open = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not is_open:
        strict["additionalProperties"] = False
    return strict
