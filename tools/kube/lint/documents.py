"""YAML and JSON as the programs read them that they are for: a key that stands twice is an error, not the last one."""

import json
from collections.abc import Hashable
from functools import lru_cache
from typing import Any

import yaml

__all__ = ["DocumentError", "parse"]


class DocumentError(Exception):
    """A text is no YAML or JSON; the message says where and why, in one line."""


class _Loader(yaml.CSafeLoader):
    """Refuses a key that stands twice in a mapping."""

    # Its signature is PyYAML's.
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002
        seen = []
        for key, _ in node.value:
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
        return json.loads(text) if name.endswith(".json") else yaml.load(text, _Loader)  # noqa: S506 - a safe one
    except (ValueError, yaml.YAMLError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise DocumentError(f"{problem or ' '.join(str(error).split())}{line}") from error
