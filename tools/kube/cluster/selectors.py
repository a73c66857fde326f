"""Label selectors, as Kubernetes defines them."""

from collections.abc import Mapping
from typing import Any

from kube.cluster.errors import ObjectError

__all__ = ["matches"]


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether labels satisfy `matchLabels` and `matchExpressions`; an empty selector matches everything."""
    wanted: Mapping[str, str] = selector.get("matchLabels") or {}
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        _satisfies(expression, labels) for expression in selector.get("matchExpressions") or []
    )


def _satisfies(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, operator, values = expression["key"], expression["operator"], expression.get("values") or []
    match operator:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
    raise ObjectError(f"selector: operator {operator!r}, expected In, NotIn, Exists or DoesNotExist")
