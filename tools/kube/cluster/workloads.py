"""
Workloads, turned into the pods that they ask for.

Pure: what a Deployment's or StatefulSet's controller would create, with the names and labels that it would give.
"""

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from kube.cluster.errors import ObjectError
from kube.objects import Object, matches, title

__all__ = ["PodPlan", "claims", "plans"]

_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"


@dataclass(frozen=True, slots=True, kw_only=True)
class PodPlan:
    """
    A pod that shall exist.

    Attributes:
        place: What makes it this one of its workload's pods.
        name: Generated for a Deployment, so it does not matter whether two are the same.
        owner: Title of the workload, for messages.
        workload: Its name, under which overrides are looked up.
        host_name: The name it has for itself and below its headless Service `subdomain`.
        ordered: It starts after the pods before it are ready.
        runs_once: Its end with status 0 is a success.
    """

    place: str
    name: str = field(compare=False)
    namespace: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    spec: Object
    owner: str
    workload: str
    host_name: str
    subdomain: str = ""
    ordered: bool = False
    runs_once: bool = False

    def successor(self, number: int) -> Self:
        """The pod that takes its place: under the same name only where names are stable."""
        if self.name == self.place:
            return self
        stem, _, letters = self.name.rpartition("-")
        return replace(self, name=f"{stem}-{_letters(f'{letters}{number}', 5)}")


def plans(workload: Object) -> list[PodPlan]:
    """
    The pods of a workload.

    Raises:
        ObjectError: Its selector does not select its own pods.
    """
    if workload["kind"] == "Pod":
        return [_plan(workload, workload, workload["metadata"]["name"])]
    template = workload["spec"]["template"]
    labels = template.get("metadata", {}).get("labels") or {}
    selector = workload["spec"].get("selector")
    if selector is not None and not matches(selector, labels):
        raise ObjectError(f"{title(workload)}: its selector {selector} does not match its template's labels {labels}")
    build = {"Deployment": _of_deployment, "StatefulSet": _of_stateful_set, "Job": _of_job}[workload["kind"]]
    return build(workload, template)


def claims(workload: Object) -> list[Object]:
    """The PersistentVolumeClaims that a StatefulSet has made, one for each template and pod."""
    if workload["kind"] != "StatefulSet":
        return []
    return [
        {
            **copy.deepcopy(template),
            "kind": "PersistentVolumeClaim",
            "metadata": {
                "name": _claim_name(template, workload, number),
                "namespace": workload["metadata"].get("namespace") or "default",
            },
        }
        for template in workload["spec"].get("volumeClaimTemplates") or []
        for number in range(_replicas(workload))
    ]


def _of_deployment(workload: Object, template: Object) -> list[PodPlan]:
    digest = _digest(template)
    return [
        _plan(
            workload,
            template,
            f"{workload['metadata']['name']}-{digest}-{_letters(f'{digest}{number}', 5)}",
            place=f"{digest}-{number}",
            labels={"pod-template-hash": digest},
        )
        for number in range(_replicas(workload))
    ]


def _of_stateful_set(workload: Object, template: Object) -> list[PodPlan]:
    name = workload["metadata"]["name"]
    ordered = workload["spec"].get("podManagementPolicy", "OrderedReady") == "OrderedReady"
    found = []
    for number in range(_replicas(workload)):
        claimed = [
            {
                "name": each["metadata"]["name"],
                "persistentVolumeClaim": {"claimName": _claim_name(each, workload, number)},
            }
            for each in workload["spec"].get("volumeClaimTemplates") or []
        ]
        labels = {"statefulset.kubernetes.io/pod-name": f"{name}-{number}", "apps.kubernetes.io/pod-index": str(number)}
        found.append(_plan(workload, template, f"{name}-{number}", labels=labels, volumes=claimed, ordered=ordered))
    return found


def _of_job(workload: Object, template: Object) -> list[PodPlan]:
    name = workload["metadata"]["name"]
    letters = _letters(_digest(template), 5)
    return [_plan(workload, template, f"{name}-{letters}", labels={"batch.kubernetes.io/job-name": name})]


def _plan(
    workload: Object,
    template: Object,
    name: str,
    *,
    place: str = "",
    labels: Mapping[str, str] | None = None,
    volumes: list[Object] | None = None,
    ordered: bool = False,
) -> PodPlan:
    metadata, spec = template.get("metadata") or {}, copy.deepcopy(template["spec"])
    replaced = {each["name"] for each in volumes or []}
    spec["volumes"] = [each for each in spec.get("volumes") or [] if each["name"] not in replaced] + (volumes or [])
    stateful = workload["kind"] == "StatefulSet"
    return PodPlan(
        place=place or name,
        name=name,
        namespace=workload["metadata"].get("namespace") or "default",
        labels={**(metadata.get("labels") or {}), **(labels or {})},
        annotations=metadata.get("annotations") or {},
        spec=spec,
        owner=title(workload),
        workload=workload["metadata"]["name"],
        # A name of its own below the Service: the pod of a Deployment has it only where the template says so.
        host_name=name if stateful else spec.get("hostname") or "",
        subdomain=(workload["spec"].get("serviceName") if stateful else spec.get("subdomain")) or "",
        ordered=ordered,
        runs_once=spec.get("restartPolicy", "Always") != "Always",
    )


def _replicas(workload: Object) -> int:
    return int(workload["spec"].get("replicas", 1))


def _claim_name(template: Object, workload: Object, number: int) -> str:
    return f"{template['metadata']['name']}-{workload['metadata']['name']}-{number}"


def _digest(template: Object) -> str:
    return _letters(json.dumps(template, sort_keys=True), 10)


def _letters(text: str, count: int) -> str:
    """Letters as in generated names: no vowels, so that they spell nothing."""
    return "".join(_SUFFIX[byte % len(_SUFFIX)] for byte in hashlib.sha256(text.encode()).digest()[:count])
