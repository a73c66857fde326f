"""YAML and JSON as Kubernetes and its programs read them: a key that stands twice is an error, a date is text."""

import json
from collections.abc import Hashable
from functools import lru_cache
from typing import Any

import yaml

__all__ = ["DocumentError", "Loader", "parse"]

_MERGE, _TIMESTAMP = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:timestamp"


class DocumentError(Exception):
    """A text is no YAML or JSON; the message says where and why, in one line."""


class Loader(yaml.CSafeLoader):
    """Refuses a key that stands twice in a mapping, and knows no dates."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's
        first: [each for each in resolvers if each[0] != _TIMESTAMP]
        for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 - PyYAML's
        """Return the mapping of a node, each key of which stands once."""
        seen = []
        for key in (key for key, _ in node.value if key.tag != _MERGE):
            name = self.construct_object(key, deep=True)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {name} twice", key.start_mark)
            seen.append(name)
        return super().construct_mapping(node, deep)


# Rules read the same few files again and again.
@lru_cache(maxsize=256)
def parse(text: str, name: str) -> Any:
    """
    Return what a file called *name* says; it is shared, so nobody may change it.

    Raises:
        DocumentError: It says nothing sensible.
    """
    try:
        return json.loads(text) if name.endswith(".json") else yaml.load(text, Loader)  # noqa: S506 - a safe one
    except (ValueError, yaml.YAMLError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise DocumentError(f"{problem or ' '.join(str(error).split())}{line}") from error
